"""A module as an ONNX file, by PyTorch's own exporters."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from gradcam_multi.errors import MissingExtraError, UnsupportedError
from gradcam_multi.spec import Inputs
from gradcam_multi_torch.guard import evaluation
from gradcam_multi_torch.inputs import Arguments, first_items, parameters, prepare
from gradcam_multi_torch.model import opened

OPSET = 18
_Exporter = Callable[[nn.Module, Arguments, bool], bytes]


def to_onnx(model: Any, inputs: Inputs) -> bytes:
    """Return a module as ONNX, its batch axis free where PyTorch's exporters can have it so.

    The newer exporter is tried first, where onnxscript is installed. Raises UnsupportedError where
    none succeeds, with the last one's reason.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError(
            'exporting needs onnx and onnxruntime; pip install "gradcam-multi[onnx,torch]"'
        )
    module = opened(model)
    exporters: list[_Exporter] = [_legacy]
    if find_spec("onnxscript") is not None:
        exporters.insert(0, _newer)
    # Two items: of a batch of one, an exporter takes the extent for a constant.
    arguments = first_items(prepare(module, inputs), 2)
    if isinstance(model, torch.jit.ScriptModule):  # which the older exporter reads itself
        exporters = [partial(_legacy, names=tuple(parameters(module)))]
        module = model
    reasons = []
    for free in (True, False):
        for exporter in exporters:
            given = first_items(arguments, 2)  # copies: the model may write into its inputs
            with evaluation(module), torch.no_grad(), _quiet():
                try:
                    return exporter(module, given, free)
                except Exception as error:  # an exporter can fail in any way
                    reasons.append(" ".join(str(error).split())[:200] or type(error).__name__)
    raise UnsupportedError(
        f"torch.onnx.export cannot export the {type(module).__name__}: {reasons[0]}; export it "
        "yourself and give the .onnx file"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters from reporting their progress, and what they do without."""
    logger, noise = logging.getLogger("torch.onnx"), io.StringIO()
    level = logger.level
    with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _newer(module: nn.Module, arguments: Arguments, free: bool) -> bytes:
    args, kwargs = arguments
    shapes = None
    if free:
        batch = torch.export.Dim("batch")
        shapes = tuple(_axes(value, batch) for value in (*args, *kwargs.values()))
    program = torch.onnx.export(
        module, args, kwargs=kwargs, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes,
        verbose=False, external_data=False,
    )  # fmt: skip
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def _axes(value: Any, batch: Any) -> dict[int, Any] | None:
    return {0: batch} if isinstance(value, torch.Tensor) and value.ndim else None


def _legacy(
    module: nn.Module, arguments: Arguments, free: bool, names: Sequence[str] = ()
) -> bytes:
    args, kwargs = arguments
    named = [*list(names or parameters(module))[: len(args)], *kwargs]
    values = [*args, *kwargs.values()]
    axes = {
        name: {0: "batch"}
        for name, value in zip(named, values, strict=False)
        if isinstance(value, torch.Tensor) and value.ndim
    }
    stream = io.BytesIO()
    torch.onnx.export(
        module, args, stream, kwargs=kwargs, dynamo=False, opset_version=OPSET, input_names=named,
        dynamic_axes=axes if free else None,
    )  # fmt: skip
    return stream.getvalue()
