"""What the input and the layers' biases each contribute to a score, by one run of the model."""

from collections.abc import Callable, Mapping

import numpy as np

from gradcam_multi.cam.full_gradients import item_sums
from gradcam_multi.cam.probe import FullGradients
from gradcam_multi.errors import UnsupportedError
from gradcam_multi.image_input import ImageInput
from gradcam_multi.layers import on_path
from gradcam_multi.spec import Array, Bias, Biased, InputName, Inputs, Model, Trace


def full_gradients(
    model: Model,
    inputs: Inputs,
    image: ImageInput,
    output: str,
    cotangents: Callable[[Trace], Mapping[str, Array]],
) -> FullGradients:
    """Run the model once and multiply input and biases by their gradients; see `FullGradients`.

    `output` is the explained output, `cotangents` the score's derivative with respect to a run's
    logits. All biased layers are kept at once. Raises UnsupportedError for a model without biases.
    """
    biases = _biases(model, inputs, output)
    further = [s for s in model.inputs if s.name != image.name and "float" in s.dtype]
    given = [image.name, *(spec.name for spec in further)]
    places = [bias.at or name for name, bias in biases.items()]
    with model.trace(inputs, [*map(InputName, given), *places]) as trace:
        found = cotangents(trace)
        values, gradients = trace.activations, trace.vjp(found)
        logits = trace.logits
        score = np.sum([item_sums(g * logits[name]) for name, g in found.items()], axis=0)
    count = len(given)
    shares = [x * g for x, g in zip(values[:count], gradients[:count], strict=True)]
    own = zip(biases.values(), gradients[count:], strict=True)
    return FullGradients(
        image=image.channels_first(shares[0]),
        layers=tuple(_contributed(*each) for each in own),
        others=np.sum([np.zeros(len(score)), *map(item_sums, shares[1:])], axis=0),
        score=score,
    )


def _biases(model: Model, inputs: Inputs, output: str) -> dict[str, Bias]:
    """The biases of the layers that the output depends on, in execution order."""
    if not isinstance(model, Biased):
        raise UnsupportedError(
            f"the layers' biases were asked for, which the adapter {model.backend!r} does not give "
            "for a model of this kind: take another method, or give the model as a "
            "torch.nn.Module, a Keras model on TensorFlow, or an ONNX file"
        )
    known = model.biases(inputs)
    path = on_path(model.layers(inputs), output)
    return {layer.name: known[layer.name] for layer in path if layer.name in known}


def _contributed(bias: Bias, gradient: Array) -> Array:
    """A bias times its gradient in each cell, (N, C, *grid)."""
    shares: Array = bias.values.reshape(-1, *(1,) * (gradient.ndim - 2)) * gradient
    return shares
