"""Adapters with one fault each, and the kit's tests that must see it."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy_adapter import NumpyBlocks, NumpyModel, NumpyModule, NumpyTrace

from gradcam_multi import hookimpl
from gradcam_multi.testing.operators import OPERATORS, Operator

NUMBERS = "test_activations_logits_and_gradients"
SMALL_NUMBERS = "test_activations_and_gradients_are_those_of_the_reference"
MAPS = "test_maps_of_the_default_layer"
DEFAULT = "test_the_default_layer_by_value"
REPLAY = "test_a_run_from_the_layer_on"
ITEMS = "test_01_need_10_a_batch_is_its_items"
BATCHES = "test_01_need_10_batches_are_right_for_every_item"
STATE = "test_02_need_22_every_network_is_left_as_found"
STATE_SMALL = "test_02_need_22_the_model_is_left_as_found"
THREADS = "test_04_threads_get_what_a_serial_run_gets"
CAPTURED = "test_05_what_was_captured_is_not_overwritten"
NAN = "test_07_need_02_nothing_is_nan_and_each_item_has_a_status"
NAMED = "test_08_what_is_asked_wrongly_is_named"
IGNORED = "test_08_a_layer_that_the_score_ignores_is_named"
IGNORING = "test_08_an_output_that_ignores_the_layer_is_named"
MEMORY = "test_09_need_11_memory_is_flat_over_500_calls"
SEVERAL = "test_several_inputs_by_position_and_by_name"
INPUTS = "test_gradients_of_the_inputs"
INPUT_IGNORED = "test_08_an_output_that_ignores_the_input_is_named"
RULE = "test_02_the_rule_is_gone_after_its_trace"
RULE_THREADS = "test_04_threads_keep_their_rules"
RULE_ASKED = "test_08_what_is_asked_wrongly_of_the_way_back_is_named"
COMPLETE = "test_inputs_and_biases_make_up_the_score"
BLOCKS = "test_blocks_of_attention"
RULE_NEEDS = "test_08_the_guided_rule_needs_a_relu"


class Fault(NamedTuple):
    """A model class, and the tests of the kit that are red for it."""

    model: type[NumpyModel]
    red: tuple[str, ...]


def changed(activation: Any = None, gradient: Any = None) -> type[NumpyModel]:
    """Make a model whose activations or gradients, (N, C, *grid), go through a function."""

    class Trace(NumpyTrace):
        @property
        def activations(self):
            own = super().activations
            return tuple(map(activation, own)) if activation else own

        def vjp(self, cotangents):
            own = super().vjp(cotangents)
            return tuple(map(gradient, own)) if gradient else own

    class Model(NumpyModel):
        trace_class = Trace

    return Model


def height_and_width(tensor):
    return tensor.swapaxes(2, 3) if tensor.ndim == 4 else tensor


class SoftmaxAsLogits(NumpyModel):
    class trace_class(NumpyTrace):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.logits = self.outputs


class Overwritten(NumpyModel):
    """A ReLU in place after the layer."""

    class trace_class(NumpyTrace):
        @property
        def activations(self):
            own = dict(zip(self.names, super().activations, strict=True))
            for node in self.network.nodes:
                if node.op == "relu" and node.inputs[0] in own:
                    np.maximum(own[node.inputs[0]], 0, out=own[node.inputs[0]])
            return tuple(own.values())


class Accumulating(NumpyModel):
    """Gradients that are added to those of the call before."""

    class trace_class(NumpyTrace):
        before = 0

        def vjp(self, cotangents):
            self.before = tuple(
                new + (self.before[place] if self.before else 0)
                for place, new in enumerate(super().vjp(cotangents))
            )
            return self.before


class SilentZeros(NumpyModel):
    """No error where the score ignores the layer."""

    class trace_class(NumpyTrace):
        def _before(self, outputs):
            return set(self.names)


class SameReplay(NumpyModel):
    class trace_class(NumpyTrace):
        def replay(self, layer, activation):
            return self.logits


class HalfAtTheBorder(NumpyModel):
    class trace_class(NumpyTrace):
        def _core(self, name, tensor):
            return super()._core(name, tensor).astype(self.network.dtype)


class OverflowingSoftmax(NumpyModel):
    """Exponentials of the logits, and not of their differences to the largest."""

    class trace_class(NumpyTrace):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            with np.errstate(all="ignore"):
                for output, own in self.logits.items():
                    if self.network.logits[output] != self.network.outputs[output]:
                        self.outputs[output] = np.exp(own) / np.exp(own).sum(-1, keepdims=True)


class FlagLeft(NumpyModel):
    @contextmanager
    def trace(self, inputs, layers):
        self.module.training = False
        with super().trace(inputs, layers) as trace:
            yield trace


class FlagLeftAfterException(NumpyModel):
    @contextmanager
    def trace(self, inputs, layers):
        before, self.module.training = self.module.training, False
        with super().trace(inputs, layers) as trace:
            yield trace
        self.module.training = before


class WeightsTouched(NumpyModel):
    @contextmanager
    def trace(self, inputs, layers):
        with super().trace(inputs, layers) as trace:
            next(iter(self.network.weights.values()))[...] *= 1.001
            yield trace


class Leaking(NumpyModel):
    @contextmanager
    def trace(self, inputs, layers):
        with super().trace(inputs, layers) as trace:
            self.__dict__.setdefault("kept", []).append(trace)
            yield trace


class SharedInputs(NumpyModel):
    """Two threads overwrite each other's inputs."""

    def bind(self, inputs):
        self.latest = super().bind(inputs)
        time.sleep(0.002 if threading.active_count() > 1 else 0)
        return self.latest


class PositionsReversed(NumpyModel):
    def bind(self, inputs):
        return super().bind(inputs[::-1] if isinstance(inputs, tuple) else inputs)


class BareKeyError(NumpyModel):
    @contextmanager
    def trace(self, inputs, layers):
        if unknown := [layer for layer in layers if layer not in self.names]:
            raise KeyError(unknown[0])
        with super().trace(inputs, layers) as trace:
            yield trace


class EdgesLost(NumpyModel):
    def layers(self, inputs=None):
        return tuple(replace(layer, inputs=()) for layer in super().layers(inputs))


class RolesLost(NumpyModel):
    """Convolutions that pass for any other operation."""

    def layers(self, inputs=None):
        listed = super().layers(inputs)
        return tuple(replace(x, role="other") if x.role == "conv" else x for x in listed)


class InputsReversed(NumpyModel):
    """An input's channels in another order than the model takes them."""

    class trace_class(NumpyTrace):
        def _core(self, name, tensor):
            own = super()._core(name, tensor)
            return own[:, ::-1] if name in self.network.inputs else own


class AlwaysPlain(NumpyModel):
    """A guided rule that is asked for and not applied, nor missed."""

    @contextmanager
    def trace(self, inputs, layers, *, relu="plain"):
        with super().trace(inputs, layers) as trace:
            yield trace


class RuleOfTheModel(NumpyModel):
    """The rule is the model's while a trace is open, and so that of the other threads too."""

    relu = "plain"

    @contextmanager
    def trace(self, inputs, layers, *, relu="plain"):
        self.relu = relu
        time.sleep(0.002 if threading.active_count() > 1 else 0)
        try:
            with super().trace(inputs, layers, relu=self.relu) as trace:
                yield trace
        finally:
            self.relu = "plain"


class RuleLeft(NumpyModel):
    """Once guided, always guided."""

    relu = "plain"

    @contextmanager
    def trace(self, inputs, layers, *, relu="plain"):
        self.relu = relu if self.relu == "plain" else self.relu
        with super().trace(inputs, layers, relu=self.relu) as trace:
            yield trace


class GuidedByOutput(NumpyModel):
    """Guided gradients of several outputs, as if they added up."""

    class trace_class(NumpyTrace):
        def vjp(self, cotangents):
            single = [super(type(self), self).vjp({n: g}) for n, g in cotangents.items()]
            return tuple(map(sum, zip(*single, strict=True)))


class BatchStatistics(NumpyModel):
    """Batch normalisation by the batch's own mean and variance, as in training."""

    @contextmanager
    def trace(self, inputs, layers):
        def forward(node, weights, x):
            axes = (0, *range(2, x.ndim))
            return honest.forward(
                node, {**weights, "mean": x.mean(axes), "variance": x.var(axes)}, x
            )

        honest = OPERATORS["batchnorm"]
        OPERATORS["batchnorm"] = Operator(forward, honest.pull)
        try:
            with super().trace(inputs, layers) as trace:
                OPERATORS["batchnorm"] = honest
                yield trace
        finally:
            OPERATORS["batchnorm"] = honest


class BiasesUnnormalised(NumpyModel):
    """Biases of batch normalisation that forget the mean."""

    def biases(self, inputs):
        own = {n.name: self.network.weights_of(n) for n in self.network.nodes}
        found = super().biases(inputs).items()
        return {k: replace(b, values=own[k]["bias"]) for k, b in found}


class HeadOfTheRun(NumpyModel):
    """A head that reads the tokens of the run, whatever it is given."""

    class blocks_class(NumpyBlocks):
        def head(self, tokens, cotangents):
            return super().head(self.tokens[-1], cotangents)


class ValuesOfOthers(NumpyModel):
    """Attention whose values are in another order than its keys."""

    class blocks_class(NumpyBlocks):
        def attended(self, block, cotangent):
            gradient, values = super().attended(block, cotangent)
            return gradient, values[:, :, ::-1]


FAULTS = {
    "gradient off by a sign": Fault(changed(gradient=np.negative), (NUMBERS, SMALL_NUMBERS, MAPS)),
    "gradient half as large": Fault(changed(gradient=lambda g: g / 2), (NUMBERS, MAPS)),
    "gradients of other items": Fault(changed(gradient=lambda g: g[::-1]), (NUMBERS, ITEMS, MAPS)),
    "activations of other items": Fault(
        changed(activation=lambda a: a[::-1]), (NUMBERS, ITEMS, BATCHES)
    ),
    "gradients averaged over the batch": Fault(
        changed(gradient=lambda g: np.broadcast_to(g.mean(0), g.shape)), (NUMBERS, ITEMS, BATCHES)
    ),
    "height and width swapped": Fault(
        changed(height_and_width, height_and_width), (NUMBERS, SMALL_NUMBERS, MAPS)
    ),
    "channels swapped in both": Fault(changed(*[lambda t: t[:, ::-1]] * 2), (NUMBERS, DEFAULT)),
    "channels swapped in one": Fault(changed(gradient=lambda t: t[:, ::-1]), (NUMBERS, MAPS)),
    "a flag left changed": Fault(FlagLeft, (STATE, STATE_SMALL)),
    "a flag left changed after an exception": Fault(FlagLeftAfterException, (STATE, STATE_SMALL)),
    "weights touched": Fault(WeightsTouched, (STATE, STATE_SMALL)),
    "activation overwritten": Fault(Overwritten, (CAPTURED, NUMBERS)),
    "softmax as logits": Fault(SoftmaxAsLogits, (NUMBERS, SMALL_NUMBERS)),
    "gradients accumulated": Fault(Accumulating, (SMALL_NUMBERS,)),
    "memory leak": Fault(Leaking, (MEMORY,)),
    "threads share state": Fault(SharedInputs, (THREADS,)),
    "NaN let through": Fault(OverflowingSoftmax, (NAN,)),
    "float16 handed over": Fault(HalfAtTheBorder, (NUMBERS,)),
    "a replay that ignores the activation": Fault(SameReplay, (REPLAY,)),
    "inputs in another order": Fault(PositionsReversed, (SEVERAL,)),
    "an error of Python's own": Fault(BareKeyError, (NAMED,)),
    "zeros where the score ignores the layer": Fault(
        SilentZeros, (IGNORED, IGNORING, INPUT_IGNORED)
    ),
    "an input's channels in another order": Fault(InputsReversed, (INPUTS,)),
    "a guided rule that is none": Fault(AlwaysPlain, (INPUTS, RULE_NEEDS)),
    "a guided rule for all threads": Fault(RuleOfTheModel, (RULE_THREADS,)),
    "a guided rule that stays": Fault(RuleLeft, (RULE, RULE_THREADS)),
    "guided gradients that are added up": Fault(GuidedByOutput, (RULE_ASKED,)),
    "biases without the mean": Fault(BiasesUnnormalised, (COMPLETE,)),
    "a head that ignores its tokens": Fault(HeadOfTheRun, (BLOCKS,)),
    "values of other tokens": Fault(ValuesOfOthers, (BLOCKS,)),
    "edges lost": Fault(EdgesLost, (DEFAULT,)),
    "roles lost": Fault(RolesLost, (DEFAULT,)),
    "batch statistics": Fault(BatchStatistics, (NUMBERS, ITEMS)),
}


class Plugin:
    """Claims as the NumPy adapter does, and opens with a fault."""

    def __init__(self, model: type[NumpyModel]) -> None:
        self.model = model

    @hookimpl
    def gradcam_multi_open(self, model):
        return self.model(model) if isinstance(model, NumpyModule) else None
