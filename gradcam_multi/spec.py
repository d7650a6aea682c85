"""The contract between the core and an adapter: plain data, and two protocols.

An adapter opens a model (`Model`), lists what happens inside it (`Layer`), runs it once and holds
on to some activations (`Trace`), and multiplies cotangents back to them. All the rest is NumPy.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Layout = Literal["channels_first", "channels_last"]
Inputs = Any
"""What the model takes: one array, a tuple of positional ones, or a dict of named ones; NumPy
arrays or the framework's own tensors, batch axis first."""

Role = Literal["conv", "linear", "attention", "pool", "identity", "other"]
"""What the choice of the default layer has to know of an operation: a convolution (of any rank,
transposed ones too); another one that mixes channels by weights (dense, matrix product, einsum);
a product of two results, by which tokens mix (attention, fused or not); pooling, resizing or
padding; one that hands its input on unchanged at inference (dropout, identity); the rest."""


ReluRule = Literal["plain", "guided"]
"""How a gradient passes ReLU and ReLU6: as calculus has it, or by guided backpropagation
(Springenberg 2015, arXiv:1412.6806), which lets positive gradients through only. Other
activations (leaky ones, SiLU, GELU) have no such rule: theirs is the plain one always."""


class InputName(str):
    """The name of an input among the layers of a trace, also where a layer has the same name."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    `shape` has the batch axis first and None where an extent is free. `layout` says where an
    input's channels are. `activation` names the function behind which an output's logits lie.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: Layout | None = None
    activation: Literal["softmax", "sigmoid"] | None = None


@dataclass(frozen=True, slots=True)
class Folding:
    """How a row of tokens lies over an image.

    The first `prefix` tokens have no place in it (class, distillation, registers); the others are
    the cells of `grid`, (rows, columns) or (steps, rows, columns), in C order.
    """

    grid: tuple[int, ...]
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation of a model, in execution order, and the tensor it makes.

    `kind` is the framework's own word for the operation. `shape` is that of its result, as the
    framework lays it out, batch axis first, None where free; `channel_axis` is its channel axis,
    or None where it has none; `batch_axis` is where the batch is, if not in front (some token
    models keep the sequence there). `inputs` are the names of the layers that it reads. `output`
    is the name of the model output that it makes, or None. `default` marks the final feature map;
    the core sets it. `source` is the module of the exported program that it comes from, for models
    in a file whose exporter wrote that down. `folding` is how the tokens of a layer whose grid has
    one axis lie over the image; the core sets it.
    """

    name: str
    kind: str
    role: Role
    shape: tuple[int | None, ...] | None
    channel_axis: int | None = None
    inputs: tuple[str, ...] = ()
    output: str | None = None
    default: bool = False
    source: str | None = None
    folding: Folding | None = None
    batch_axis: int = 0

    @property
    def grid(self) -> tuple[int | None, ...]:
        """Spatial extents, without batch and channels; () where there are none."""
        if self.shape is None or self.channel_axis is None:
            return ()
        apart = (self.batch_axis, self.channel_axis % len(self.shape))
        return tuple(n for axis, n in enumerate(self.shape) if axis not in apart)

    @property
    def spatial(self) -> bool:
        """Whether its grid has more than one cell, so that a map over it says anything."""
        return any(n is None or n > 1 for n in self.grid)


@dataclass(frozen=True, slots=True)
class Bias:
    """What a layer adds to each channel, whatever it reads: `values`, (C,) float32.

    It is added to the layer's result or, where an activation is part of the layer, to what that
    reads: `at` is then the name by which `Model.trace` takes that tensor, of the same grid.
    """

    values: Array
    at: str | None = None


class Trace(Protocol):
    """One run of a model with some activations kept; valid until its context ends."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """What the model returned, float32, in the model's own layout and order."""

    @property
    def logits(self) -> Mapping[str, Array]:
        """The same, but before a final softmax or sigmoid where an output ends in one."""

    @property
    def activations(self) -> tuple[Array, ...]:
        """(N, C, *grid) float32, channels first, one per layer asked for.

        An input's is the input itself, float32, in the shape and layout that the model takes.
        """

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers.

        `cotangents` maps names of outputs to arrays of their logits' shapes; an output left out
        counts as zero. Returns arrays of the activations' shapes. May be called many times.
        Raises LayerNotOnPathError where none of the outputs named depends on a layer, and
        TargetError for several outputs under the guided rule, which is not linear.
        """

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward from the layer on with another activation, (N, C, *grid); return logits."""


@runtime_checkable
class Model(Protocol):
    """A model as an adapter opened it; safe to use from many threads.

    It may also have `framework`, a text: the framework's name and version, for `doctor` to print;
    `accelerated`, true where it runs on a GPU or the like, so that more items run at once; and
    `side_by_side(threads)`, which returns the same model for runs that several threads of the
    caller ask for at the same time, `threads` being the framework's own in each of them, its
    caller's among these; or None where that gains nothing.
    """

    @property
    def backend(self) -> str:
        """The adapter's name, as registered."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes; empty where the framework cannot say before a run."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it returns; empty where the framework cannot say before a run."""

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """Every operation in execution order; `inputs` are needed where only a run can tell.

        Raises InputError where they are needed and absent, or do not fit.
        """

    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> AbstractContextManager[Trace]:
        """Run once and keep the results of the named layers.

        Among `layers` may be names of floating-point inputs, as in `inputs` of this protocol; a
        layer goes before an input of its name, unless that is an `InputName`. `relu` is the rule of
        this trace's gradients alone. Leaves the model as found, on success and on failure. Raises
        UnknownLayerError, LayerNotReachedError, InputError (also for an input of integers), and
        UnsupportedError where the guided rule cannot be had or the model has no ReLU.
        """


@runtime_checkable
class Biased(Protocol):
    """A model that also gives its biases; an adapter can do without."""

    def biases(self, inputs: Inputs) -> Mapping[str, Bias]:
        """Return the bias of each layer that is known to add one, by the layer's name in `layers`.

        Convolutions and dense layers add one, and normalisations by stored statistics do:
        beta - gamma mean / sqrt(variance + epsilon). Raises what `layers` raises.
        """


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a token model, by the names of two of its layers.

    `attention` is the product by which its tokens mix, weights times values; `tokens` is what
    leaves the block, behind its residual additions.
    """

    attention: str
    tokens: str


class BlockTrace(Protocol):
    """One run of a token model whose blocks are kept; valid until its context ends."""

    @property
    def tokens(self) -> tuple[Array, ...]:
        """What leaves each block, (N, C, *grid) float32, as the activations of a `Trace`."""

    def head(
        self, tokens: Array, cotangents: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    ) -> Array:
        """Run on behind the blocks with other tokens; return a score's derivative by these.

        `tokens`, like those that leave the last block, take their place. `cotangents` makes of the
        logits that follow the score's derivative with respect to them.
        """

    def attended(self, block: int, cotangent: Array) -> tuple[Array, Array]:
        """Multiply a cotangent of a block's tokens back to its attention's result.

        Returns the gradient (N, heads, queries, D) and the values (N, heads, keys, D): the product
        of the two is the gradient with respect to the attention's weights, fused or not. Raises
        UnsupportedError where they cannot be had.
        """


@runtime_checkable
class Attentive(Protocol):
    """A model that also differentiates between its layers; an adapter can do without."""

    def trace_blocks(
        self, inputs: Inputs, blocks: Sequence[Block]
    ) -> AbstractContextManager[BlockTrace]:
        """Run once and keep the blocks, in execution order; otherwise as `Model.trace`.

        The names are of `layers`, of the same inputs.
        """


Kind = Literal["heatmap", "gradient"]
ClassInput = Literal["optional", "required"]


@dataclass(frozen=True)
class ExportOrder:
    """What is asked of an adapter that writes explanations as files.

    `layer` is a layer's name, or its activations (N, C, *grid) for `inputs`, by which it is found
    where the model came from another framework; `output` is an output's name, or its position.
    `layer_name` and `output_name` are what the caller calls the two. `inputs` are those that the
    file is checked with. `preprocess` is JSON, or empty. `folding` says how the layer's tokens,
    (N, C, T), become activations (N, C, *grid).
    """

    kind: Kind
    layer: str | Array
    layer_name: str
    output: str | int
    output_name: str
    method: str
    inputs: Inputs
    preprocess: str = ""
    opset: int | None = None
    class_input: ClassInput = "optional"
    folding: Folding | None = None


@runtime_checkable
class Exported(Protocol):
    """A file that was built and not yet written."""

    @property
    def data(self) -> bytes:
        """The file's content."""

    @property
    def half(self) -> bool:
        """Whether the model computes in half precision, so that maps agree to fewer digits."""

    def run(self, inputs: Inputs, classes: NDArray[np.int64] | None) -> Mapping[str, Array]:
        """Run the file in its stock runtime: `scores`, `class` and `heatmap` of a heatmap file.

        `classes` (N,) are the classes to explain; None leaves the choice to the file.
        """
