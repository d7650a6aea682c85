"""Whether an exported file gives the model's own maps: on two inputs, and several classes.

They must be equal, and differ from each other.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import ExportError, InputError
from gradcam_multi.explainer import Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.preprocess import DEFAULT_SIZE, Preprocess
from gradcam_multi.resize import resize
from gradcam_multi.sizes import batch_count
from gradcam_multi.spec import Array, Exported, ExportOrder, Inputs, Model, TensorSpec
from gradcam_multi.targets import TopClass, class_scores
from gradcam_multi.tokens import FoldedTrace

TOLERANCE = 1e-4
"""Of maps in [0, 1]: one float32 graph run twice, with other fusions and orders of summation."""

FRAMEWORKS = 1e-3
"""The same between two frameworks: some twenty layers of 1e-6 of noise each, in a map that is a
difference of large terms."""

HALF = 2e-2
"""The same in half precision: 11 bits, rounded at other places where operators are fused."""

_MASKS = 30
_RANKS = (0, 1, 2, 3, 5, 10, 25)  # classes to check with, beside the last one


def check_inputs(model: Model, inputs: Inputs, prepare: Preprocess | None) -> Inputs:
    """Return two items: the first of those given, or made up from what the model says it takes.

    Raises InputError where nothing is given and the model says nothing.
    """
    random = np.random.default_rng(0)
    if inputs is None:
        if not model.inputs:
            raise InputError(
                "the model does not say what it takes: give inputs=, a batch of two items to "
                "check the export with"
            )
        made = {spec.name: _made_up(spec, prepare, random) for spec in model.inputs}
        return made if len(made) > 1 else next(iter(made.values()))
    count = batch_count(inputs)

    def two(array: Any) -> NDArray[Any]:
        whole = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
        if count > 1:
            return whole[:2]
        # One item only: a second one with the same values in another order of its cells.
        return np.concatenate([whole, np.flip(whole, axis=tuple(range(2, whole.ndim)))])

    if isinstance(inputs, Mapping):
        return {name: two(array) for name, array in inputs.items()}
    return tuple(two(array) for array in inputs) if isinstance(inputs, tuple) else two(inputs)


def _made_up(
    spec: TensorSpec, prepare: Preprocess | None, random: "np.random.Generator"
) -> NDArray[Any]:
    """Two items of coarse and fine noise; pictures through the preprocessing where there is one."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind != "f":
        return random.integers(0, 2, [n or 16 for n in (2, *spec.shape[1:])]).astype(dtype)
    if len(spec.shape) == 4 and prepare is not None:
        last = spec.layout == "channels_last"
        size = spec.shape[1:3] if last else spec.shape[2:4]
        tiles = random.integers(0, 256, (2, 8, 8, 3), np.uint8)
        pictures = np.repeat(np.repeat(tiles, 32, 1), 32, 2)
        return np.stack(
            [prepare.apply(p, size=(size[0], size[1]), layout=spec.layout)[0] for p in pictures]
        ).astype(dtype)
    if len(spec.shape) < 2:
        return random.normal(size=2).astype(dtype)
    last = spec.layout == "channels_last"
    grid = spec.shape[1:-1] if last else spec.shape[2:]
    usual = DEFAULT_SIZE[0] if len(grid) <= 2 else 16
    extents = tuple(n or usual for n in grid)
    channels = spec.shape[-1 if last else 1] or 3
    coarse = resize(random.normal(size=(2 * channels, *[min(n, 8) for n in extents])), extents)
    noise = coarse + 0.3 * random.normal(size=coarse.shape)
    return np.moveaxis(noise.reshape(2, channels, *extents), 1, -1 if last else 1).astype(dtype)


def own_maps(native: Explainer, batch: Inputs) -> list[Explanation]:
    """Return the model's own maps: for the top class, then for some others, as far as there are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without a map in made-up inputs are expected
        top = native(batch)
        count = class_scores(top.logits, top.output).shape[1]
        ranks = sorted({rank for rank in (*_RANKS, count - 1) if rank < count})
        return [top, *native.several(batch, [TopClass(rank) for rank in ranks[1:]])]


def check_heatmaps(
    built: Exported, order: ExportOrder, references: Sequence[Explanation], tolerance: float
) -> None:
    """Run a heatmap file for the references' classes; raise ExportError where a map differs."""
    for index, reference in enumerate(references):
        classes = np.array(reference.classes, np.int64)
        found = built.run(order.inputs, classes)
        _same_scores(found["scores"], reference, tolerance)
        _same_maps(found["heatmap"], reference, tolerance)
        # The other way to ask for the top class, unless rounding settles which it is.
        again = built.run(order.inputs, None) if index == 0 else {}
        if again and np.array_equal(again["class"], classes):
            _same_maps(again["heatmap"], reference, tolerance)
        elif again and not _tied(references, tolerance):
            raise ExportError(
                f"the exported file takes {again['class'].tolist()} for the top classes, the model "
                f"{classes.tolist()}; no file was written: report the model"
            )
    _different(references)


def check_gradients(built: Exported, order: ExportOrder, tolerance: float, native: Model) -> None:
    """Run a gradient file for some scores; raise ExportError where it differs from the model.

    The scores are those of several classes, along axis 1, summed over the rest where the output is
    a map. Gradients are compared by their norm, and with more room than maps: within rounding of
    zero a ReLU may be open here and closed there, which changes single entries.
    """
    layer, output, inputs = order.layer_name, order.output_name, order.inputs
    exported = Explainer(built.data).model
    gradients: list[Array] = []
    with exported.trace(inputs, [layer]) as file, native.trace(inputs, [layer]) as run:
        model = FoldedTrace(run, order.folding) if order.folding else run
        (name,) = file.logits
        expected = model.logits[output]
        _near("scores", file.logits[name], expected, tolerance)
        a = model.activations[0]
        _near("activations", file.activations[0], a, tolerance)
        count = expected.shape[1] if expected.ndim > 1 else 1
        for index in sorted({i for i in (*_RANKS, count - 1) if i < count}):
            hot = np.zeros(expected.shape, np.float32)
            hot[:, index : index + 1] = 1
            (found,), (wanted,) = file.vjp({name: hot}), model.vjp({output: hot})
            _near(f"gradients for class {index}", found, wanted, _MASKS * tolerance)
            gradients.append(wanted)
        maps = np.stack([(a * g).sum(1) for g in gradients])
    alike = [np.allclose(row[0], row[1], rtol=TOLERANCE, atol=0) for row in maps]
    if all(alike) or (len(maps) > 1 and all(np.array_equal(maps[0], m) for m in maps[1:])):
        raise ExportError(
            f"the maps at {layer!r} are the same for both inputs, or for {len(maps)} classes, that "
            "the export is checked with; no file was written: choose another layer, or give inputs="
        )


def _near(what: str, found: Array, expected: Array, tolerance: float) -> None:
    off = np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30)
    if found.shape != expected.shape or not off <= tolerance:
        raise ExportError(
            f"the exported file's {what} differ from the model's by {off:.1e} of their norm "
            f"({tolerance:.0e} allowed); no file was written: choose another layer or give other "
            "inputs= to check with"
        )


def _tied(references: Sequence[Explanation], tolerance: float) -> bool:
    if len(references) < 2:
        return False
    scale = max(float(np.abs(references[0].logits).max()), 1e-30)
    return bool(np.any(references[0].scores - references[1].scores < tolerance * scale))


def _same_scores(found: NDArray[Any], reference: Explanation, tolerance: float) -> None:
    expected = class_scores(reference.logits, reference.output)
    scale = max(float(np.abs(expected).max()), 1e-30)
    worst = float(np.abs(found - expected).max()) / scale
    if not worst <= tolerance:
        raise ExportError(
            f"the exported file's scores differ from the model's by {worst:.1e} of the largest "
            f"({tolerance:.0e} allowed); no file was written: report the model"
        )


def _same_maps(found: NDArray[Any], reference: Explanation, tolerance: float) -> None:
    expected = reference.heatmap
    if found.shape != expected.shape:
        raise ExportError(
            f"the exported file's heatmap is {found.shape}, the model's {expected.shape}; no file "
            "was written: report the model"
        )
    axes = tuple(range(1, expected.ndim))
    cam_axes = tuple(range(1, reference.cam.ndim))
    high, low = reference.cam.max(cam_axes), reference.cam.min(cam_axes)
    # Stretching a map to [0, 1] stretches its rounding, too, the more the flatter it is.
    spread = np.where(high > low, high - low, 1)
    allowed = tolerance * np.maximum(1, np.abs(high) / spread)
    differences = np.abs(found - expected).max(axes)
    for index, (difference, most) in enumerate(zip(differences, allowed, strict=True)):
        if not difference <= most:
            raise ExportError(
                f"the exported file's heatmap of {reference.layer!r} by {reference.method} for "
                f"class {reference.classes[index]} differs from the model's own by "
                f"{difference:.1e} ({most:.0e} allowed); no file was written: choose another layer "
                "or give other inputs= to check with"
            )


def _different(references: Sequence[Explanation]) -> None:
    """Maps that are all the same prove nothing, and explain nothing."""
    maps = np.stack([reference.heatmap for reference in references])
    alive = np.array([[s == "ok" for s in reference.status] for reference in references])
    layer, tried = references[0].layer, len(references)
    if not alive.any(0).all():
        raise ExportError(
            f"the inputs to check the export with give no map at {layer!r} for any of {tried} "
            "classes, so that nothing can be compared; give inputs= of the kind that the model sees"
        )
    axes = tuple(range(1, maps.ndim - 1))

    def differ(one: NDArray[Any], other: NDArray[Any]) -> bool:
        return bool((np.abs(one - other).max(axes) > TOLERANCE).any())

    if not any(differ(row[:1], row[1:]) for row in maps):
        raise ExportError(
            f"the maps at {layer!r} are the same for both inputs that the export is checked with; "
            "no file was written: choose another layer, or give inputs="
        )
    if tried > 1 and not any(differ(maps[0], other) for other in maps[1:]):
        raise ExportError(
            f"the maps at {layer!r} are the same for {tried} classes; no file was written: choose "
            "a layer whose map depends on the class"
        )
