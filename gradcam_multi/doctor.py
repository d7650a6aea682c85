"""Look a model over: what it is, which layer is explained, which methods work, and why not."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gradcam_multi.cam import METHODS
from gradcam_multi.choice import outputs_of
from gradcam_multi.diagnosis import Candidate, Diagnosis, MethodCheck
from gradcam_multi.errors import (
    GradcamError,
    ImageError,
    InputError,
    ModelError,
    PreprocessError,
    TargetError,
    UnknownBackendError,
    UnknownLayerError,
)
from gradcam_multi.explainer import Explainer, chosen_output
from gradcam_multi.explanation import STATUS_NOTES
from gradcam_multi.images import ImageSource, load_image
from gradcam_multi.layers import Layers, final_feature_map, path_of
from gradcam_multi.picture_input import PictureInput
from gradcam_multi.preprocess import DEFAULT_SIZE, Preprocess
from gradcam_multi.probing import Settings
from gradcam_multi.sizes import batch_count
from gradcam_multi.spec import Inputs, Layer, Model
from gradcam_multi.targets import class_scores
from gradcam_multi.verification import check_inputs

RUNNERS_UP = 4


def doctor(
    model: Any,
    inputs: Inputs = None,
    *,
    image: ImageSource | None = None,
    preprocess: Preprocess | str | Path = "imagenet",
    layer: str | None = None,
    backend: str | None = None,
    output: str | None = None,
    trust: bool = False,
) -> Diagnosis:
    """Look a model over: open it, run it, and try every method on a test input.

    `model`, `layer`, `backend`, `output` and `trust` are those of `Explainer`. The test input is
    `inputs`, or a picture with its preprocessing, or two items of seeded noise as the model says
    it takes them ((2, 3, 224, 224) where it cannot say).

    A model that cannot be explained is no error but the diagnosis, whose `problem` says why and
    what to do. Raises what is wrong with the question instead: ModelError for a file that does not
    exist and an unknown backend, UnknownLayerError and TargetError for a `layer` and an `output`
    that are not there, InputError for `inputs` that do not fit, ImageError and PreprocessError.
    """
    found = Diagnosis(_named(model), _size(model))
    try:
        explainer = Explainer(model, layer=layer, backend=backend, output=output, trust=trust)
    except UnknownBackendError:
        raise
    except ModelError as error:
        if isinstance(model, str | os.PathLike) and not Path(model).exists():
            raise
        return replace(found, problem=str(error))
    opened = explainer.model
    framework = getattr(opened, "framework", opened.backend)
    found = replace(found, backend=opened.backend, framework=framework)
    try:
        batch, described = _test_input(explainer, found.model, inputs, image, preprocess)
        found = replace(found, test_input=described)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a map of noise that says nothing is noted, not warned
            return _examine(explainer, batch, found)
    except Exception as error:  # whatever a framework raises on a model that nobody has seen
        # What is wrong with the question, and not with the model.
        asked: list[type[Exception]] = [ImageError]
        asked += [UnknownLayerError] if layer is not None else []
        asked += [TargetError] if output is not None else []
        asked += [InputError, PreprocessError] if inputs is not None or image is not None else []
        if isinstance(error, tuple(asked)):
            raise
        found = _with_specs(found, opened)
        advice = "; give an input that it takes" if isinstance(error, InputError) else ""
        return replace(found, problem=_line(error) + advice)


def _named(model: Any) -> str:
    return Path(model).name if isinstance(model, str | os.PathLike) else type(model).__name__


def _size(model: Any) -> int | None:
    """Bytes of a file, or of all files in a folder."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(model)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) if path.exists() else None


def _test_input(
    explainer: Explainer,
    name: str,
    inputs: Inputs,
    image: ImageSource | None,
    preprocess: Preprocess | str | Path,
) -> tuple[Inputs, str]:
    """Return a batch, and what to call it."""
    if inputs is not None:
        count = batch_count(inputs)
        return inputs, f"{count} given item{'s' * (count > 1)}"
    if image is not None:
        prepare = Preprocess.named(preprocess) if isinstance(preprocess, str | Path) else preprocess
        array, _ = PictureInput.of(explainer.model, name).apply(prepare, load_image(image))
        called = Path(image).name if isinstance(image, str | os.PathLike) else "a given picture"
        return array[None], called
    if explainer.model.inputs:
        return check_inputs(explainer.model, None, None), "2 items of seeded noise"
    noise = np.random.default_rng(0).normal(size=(2, 3, *DEFAULT_SIZE)).astype(np.float32)
    return noise, f"2 items of seeded noise, by guess {noise.shape}"


def _examine(explainer: Explainer, batch: Inputs, found: Diagnosis) -> Diagnosis:
    """Run the model: its layers first, for some frameworks know the rest only then."""
    listed = explainer.layers(batch)
    found = _with_specs(found, explainer.model)
    if explainer.layer is not None:
        name = path_of(explainer.layer, listed)
    else:
        outputs = outputs_of(explainer.model, listed)
        name = final_feature_map(listed, chosen_output(explainer.output, outputs)).name
    chosen = next((each for each in listed if each.name == name), Layer(name, "", "other", None))
    with explainer.model.trace(batch, [name]):
        pass  # a layer that is not there is no candidate
    layers = [chosen, *runners_up(listed, chosen)]
    found = replace(
        found,
        layer=name,
        candidates=tuple(_candidate(explainer, batch, each, each is chosen) for each in layers),
        methods=_methods(explainer, batch, name),
    )
    if not any(check.works for check in found.methods):
        return replace(found, problem=found.methods[0].note)
    return found


def _with_specs(found: Diagnosis, model: Model) -> Diagnosis:
    """Note inputs and outputs, as far as the model can say."""
    try:
        return replace(found, inputs=model.inputs, outputs=model.outputs)
    except GradcamError:
        return found


def runners_up(listed: Layers, chosen: Layer, most: int = RUNNERS_UP) -> list[Layer]:
    """Return the layers to try next: the last feature map of each finer grid, finest last.

    Where these are too few, the last convolutions of the chosen layer's own grid follow.
    """
    names = [each.name for each in listed]
    end = names.index(chosen.name) if chosen.name in names else len(names)
    before = [each for each in listed[:end] if each.spatial]
    last = {each.grid: each for each in before if each.role not in ("pool", "identity")}
    rank = len(chosen.grid)
    finer = [each for grid, each in last.items() if grid != chosen.grid and len(grid) == rank]
    same = [each for each in before if each.role == "conv" and each.grid == chosen.grid]
    return [*finer[::-1], *same[::-1]][:most]


def _candidate(explainer: Explainer, batch: Inputs, layer: Layer, chosen: bool) -> Candidate:
    shown = Candidate(layer.name, layer.kind, layer.grid, chosen)
    try:
        return replace(shown, gradient_norm=_gradient_norm(explainer, batch, layer.name))
    except GradcamError as error:
        return replace(shown, problem=_line(error))


def _gradient_norm(explainer: Explainer, batch: Inputs, layer: str) -> float:
    """Return the norm of the gradient of the top class's logit, the mean over the items."""
    with explainer.model.trace(batch, [layer]) as trace:
        shapes = {name: array.shape for name, array in trace.logits.items()}
        output = chosen_output(explainer.output, shapes)
        logits = trace.logits[output]
        scores = class_scores(logits, output)
        top = np.argmax(np.nan_to_num(scores, nan=-np.inf), axis=1)
        cotangent = np.zeros(scores.shape, np.float32)
        cotangent[np.arange(len(top)), top] = 1
        (gradients,) = trace.vjp({output: cotangent.reshape(logits.shape)})
    flat = gradients.reshape(len(gradients), -1).astype(np.float64)
    return float(np.linalg.norm(flat, axis=1).mean())


def _methods(explainer: Explainer, batch: Inputs, layer: str) -> tuple[MethodCheck, ...]:
    """Try all methods; what gradients say of the layer holds for those that do not look at them."""
    checks = [_method(explainer, batch, name, layer) for name in METHODS]
    seen = checks[0]  # Grad-CAM
    ignored = seen.works and "zero_gradient" in seen.note
    return tuple(
        replace(check, note=seen.note)
        if ignored and check.works and METHODS[check.name].combine is None
        else check
        for check in checks
    )


def _method(explainer: Explainer, batch: Inputs, name: str, layer: str) -> MethodCheck:
    """Try a method on the layer that was chosen."""
    tried = explainer._at(layer)  # the model stays open; opening it for each method could take long
    tried.method = METHODS[name]
    again = [need for need in METHODS[name].needs if need != "gradients"]
    try:
        if "gradients" in METHODS[name].needs:
            tried.settings = Settings(samples=1)  # of as many as they take, one tells
        elif again:  # hundreds of runs: what they are made of is tried instead
            _run_again(explainer, batch, layer, again)
            return MethodCheck(name, works=True)
        explanation = tried(batch)
    except GradcamError as error:
        return MethodCheck(name, works=False, note=_line(error))
    poor = [status for status in explanation.status if status != "ok"]
    if not poor:
        return MethodCheck(name, works=True)
    share = f"{len(poor)} of {len(explanation)} maps of the test input"
    return MethodCheck(name, works=True, note=f"ok, {share}: {poor[0]} ({STATUS_NOTES[poor[0]]})")


def _run_again(explainer: Explainer, batch: Inputs, layer: str, needs: Sequence[str]) -> None:
    """Run the model once in each way that a method needs; raise where it cannot."""
    tried = explainer._at(layer)
    if "inputs" in needs:
        tried.method, tried.settings = METHODS["rise"], Settings(samples=1)
        tried(batch)
    if "replays" in needs:
        with tried.traced(batch) as trace:
            trace.replay(layer, trace.activations[0])


def _line(error: Exception) -> str:
    if isinstance(error, GradcamError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; report the model"
