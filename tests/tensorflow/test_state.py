"""What a call leaves behind in the user's model, in Keras and in memory: nothing."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import architectures_keras as zoo
import keras
import numpy as np
import pytest
import tensorflow as tf
from gradcam_multi_tensorflow.model import KerasModel

from gradcam_multi.errors import InputError, UnknownLayerError

X = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
COTANGENT = np.eye(10, dtype=np.float32)[[3, 7]]


def state(model: Any) -> Any:
    parts = [model, *model._flatten_layers(include_self=False)]
    return [
        keras.Operation.__call__,
        [weight.numpy().tobytes() for weight in model.weights],
        [weight.trainable for weight in model.weights],
        [
            (
                part.name,
                part.trainable,
                part.built,
                part.dtype_policy.name,
                len(part._inbound_nodes),
                len(part._outbound_nodes),
                [id(loss) for loss in part._losses],
                sorted(key for key in vars(part) if key != "_called"),
                getattr(part, "activation", None),
            )
            for part in parts
        ],
        keras.config.dtype_policy().name,
        keras.config.floatx(),
        keras.config.image_data_format(),
        keras.config.is_traceback_filtering_enabled(),
        tf.config.functions_run_eagerly(),
        tf.compat.v1.get_default_graph()
        if tf.compat.v1.get_default_graph().building_function
        else None,
    ]


@pytest.mark.parametrize("build", [zoo.small_resnet, zoo.small_vgg, zoo.transfer])
def test_model_and_keras_are_left_as_found(build: Any) -> None:
    model = build()
    before = state(model)
    opened = KerasModel(model)
    opened.layers()
    assert state(model) == before
    name = next(layer.name for layer in opened.layers() if layer.role == "conv")
    with opened.trace(X, [name]) as trace:
        ones = {output: np.ones_like(z) for output, z in trace.logits.items()}
        trace.vjp(ones)
        trace.replay(name, trace.activations[0])
    assert state(model) == before
    with pytest.raises(ZeroDivisionError), opened.trace(X, [name]):
        raise ZeroDivisionError
    with pytest.raises(UnknownLayerError), opened.trace(X, ["absent"]):
        pass
    assert state(model) == before


def test_a_model_that_fails_while_traced_leaves_keras_as_found() -> None:
    class Failing(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(2, 3)

        def call(self, x: Any) -> Any:
            self.conv(x)
            raise ZeroDivisionError("inside")

    before = keras.Operation.__call__
    with pytest.raises(InputError, match="ZeroDivisionError"), KerasModel(Failing()).trace(X, []):
        pass
    assert keras.Operation.__call__ is before


def test_losses_of_regularisers_are_the_users_own() -> None:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(2, 3, activity_regularizer="l2", name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Flatten(name="flat")(x))
    model(X)
    before = [float(loss) for loss in model.losses]
    with KerasModel(model).trace(X * 2, ["conv"]):
        pass
    assert [float(loss) for loss in model.losses] == before


def test_statistics_of_normalisations_do_not_move() -> None:
    model = zoo.small_resnet()
    model.trainable = True
    before = [weight.numpy() for weight in model.weights]
    with KerasModel(model).trace(100 * X, ["block3_out"]) as trace:
        trace.vjp({"predictions": COTANGENT})
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_an_unbuilt_model_gets_the_weights_of_its_own_initialisers() -> None:
    keras.utils.set_random_seed(1)
    model = zoo.Subclassed()
    with KerasModel(model).trace(X, ["block1"]) as trace:
        (output,) = trace.outputs
        np.testing.assert_allclose(trace.outputs[output], model(X), rtol=1e-5, atol=1e-6)
    assert all(isinstance(weight.value, tf.Variable) for weight in model.weights)


def test_a_callers_tape_is_not_disturbed() -> None:
    opened = KerasModel(zoo.small_resnet())
    with opened.trace(X, ["block3_out"]) as trace:
        expected = trace.vjp({"predictions": COTANGENT})[0]
    variable = tf.Variable(3.0)
    with tf.GradientTape() as tape:
        square = variable * variable
        with opened.trace(X, ["block3_out"]) as trace:
            np.testing.assert_array_equal(trace.vjp({"predictions": COTANGENT})[0], expected)
    assert float(tape.gradient(square, variable)) == 6


def test_arrays_belong_to_the_caller() -> None:
    opened = KerasModel(zoo.channels_first())
    x = np.ones((1, 3, 18, 14), np.float32)
    with opened.trace(x, ["relu2"]) as trace:
        expected = trace.vjp({"head": np.ones((1, 4), np.float32)})[0]
        kept = trace.activations[0].copy()
        trace.activations[0][:] = 7
        trace.logits["head"][:] = 7
        np.testing.assert_array_equal(trace.vjp({"head": np.ones((1, 4), np.float32)})[0], expected)
    with opened.trace(x, ["relu2"]) as trace:
        np.testing.assert_array_equal(trace.activations[0], kept)


def test_a_trace_ends_with_its_context() -> None:
    with KerasModel(zoo.small_vgg()).trace(X, ["conv4"]) as trace:
        pass
    with pytest.raises(RuntimeError, match="with block"):
        trace.vjp({"softmax": COTANGENT})


def test_other_threads_run_keras_while_a_model_is_traced() -> None:
    """The recorder must neither see their calls nor slow them into an error."""
    other, stop, failures = zoo.small_vgg(), threading.Event(), []

    def run() -> None:
        expected = np.asarray(other(X))
        while not stop.is_set():
            if not np.array_equal(np.asarray(other(X)), expected):
                failures.append("another result")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        names = [layer.name for layer in KerasModel(zoo.small_resnet()).layers()]
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert names == [layer.name for layer in KerasModel(zoo.small_resnet()).layers()]


def test_threads_share_a_model_from_its_first_call_on() -> None:
    opened, rng = KerasModel(zoo.small_resnet()), np.random.default_rng(1)
    batches = [rng.normal(size=(2, 32, 32, 3)).astype(np.float32) for _ in range(16)]
    layers = ["block3_out", "block2_out"]

    def gradient(place: int) -> Any:
        with opened.trace(batches[place], [layers[place % 2]]) as trace:
            return trace.vjp({"predictions": COTANGENT})[0]

    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(gradient, range(16)))
    for place, result in enumerate(parallel):
        expected = gradient(place)
        # The same kernels; a reduction may be split among threads in another order.
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_memory_and_functions_do_not_grow() -> None:
    opened = KerasModel(zoo.small_resnet())

    def call() -> None:
        with opened.trace(X, ["block3_out"]) as trace:
            trace.vjp({"predictions": COTANGENT})
            trace.replay("block3_out", trace.activations[0])

    call()
    gc.collect()
    graphs, objects, resident = _function_graphs(), len(gc.get_objects()), [_resident()]
    for _ in range(5):
        for _ in range(150):
            call()
        gc.collect()
        resident.append(_resident())
    assert _function_graphs() == graphs
    assert len(gc.get_objects()) - objects < 100  # one kept per call would be 750
    # 150 kept inputs, activations and gradients would be 6 MB in each window; allocators, after
    # other tests, settle within some.
    assert np.diff(resident).min() < 1e6


def _function_graphs() -> int:
    return sum(isinstance(thing, tf.Graph) for thing in gc.get_objects())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_nothing_is_recorded_before_the_layer() -> None:
    """All that is kept for the gradient are the extents over which the average ran."""
    with KerasModel(zoo.small_resnet()).trace(X, ["block3_out"]) as trace:
        assert 0 < sum(int(tf.size(kept)) for kept in trace._residuals) < 16
