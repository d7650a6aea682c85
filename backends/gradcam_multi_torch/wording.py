"""PyTorch's errors in one line, where they are about the inputs or the gradient."""

import re

from torch import nn

from gradcam_multi.errors import GradcamError, InputError, UnsupportedError
from gradcam_multi.spec import TensorSpec
from gradcam_multi_torch import trees
from gradcam_multi_torch.inputs import Arguments, parameters

WORDED = (RuntimeError, TypeError, ValueError, AssertionError)
"""What a forward run raises for inputs that do not fit."""

# How PyTorch words a tensor that does not fit a module. Its own words hold what was given and
# what was expected; anything else that a model raises is the model's own business.
MISFIT = re.compile(
    r"expected input\[|to have \d+ (channels|elements)|cannot be multiplied|size mismatch"
    r"|Expected \d+D|[Ee]xpected (more than|\d+D|input|a tensor|scalar type)|must match the size"
    r"|[Kk]ernel size can't be greater|Output size is too small|is invalid for input of size"
    r"|should be the same|must have the same dtype|normalized_shape|Sizes of tensors must match"
    r"|must be equal|Given (groups|normalized)|shapes cannot|not implemented for '"
    r"|running_mean should contain|Padding size should be less"
    # An exported program, of extents and arguments other than those that it was exported with.
    r"|^Guard failed|Expected a value of type|[Kk]eyword mismatch|Trying to flatten user inputs"
)
# What follows repeats signatures, and whole tensors.
TAIL = re.compile(r", but expected one of| Position: \d")
IN_PLACE = re.compile(r"modified (by an )?in-?place|in-?place operation|being modified inplace")
CHECKPOINT = re.compile(r"checkpoint is incompatible|use_reentrant=True")
SIGNATURE = re.compile(
    r"forward\(\) (missing|takes|got)|missing a required argument|too many positional arguments"
    r"|got an unexpected keyword argument|combination of arguments - got \((dict|list)"
)


def reword(
    error: Exception,
    module: nn.Module,
    arguments: Arguments,
    expected: tuple[TensorSpec, ...],
    declared: bool = False,
) -> GradcamError | None:
    """Word an error of a forward run, or return None where it is the model's own business.

    `expected` is what the model takes: `declared` by itself, else as earlier runs showed.
    """
    words = " ".join(str(error).split())
    if isinstance(error, GradcamError):
        return None
    if refusal := refused(error):
        return refusal
    if MISFIT.search(words) or (isinstance(error, TypeError) and SIGNATURE.search(words)):
        given = ", ".join(f"{tuple(t.shape)} {t.dtype}" for _, t in trees.tensors(arguments))
        known = ", ".join(f"{s.name} {s.shape} {s.dtype}" for s in expected)
        known = f"it takes {known}" if declared else f"earlier runs took {known}" if known else ""
        takes = known or f"it takes {_names(module)}"
        return InputError(
            f"the model does not take inputs of {given.replace('torch.', '')}: "
            f"{TAIL.split(words)[0]}; {takes}, batch axis first"
        )
    return None


def refused(error: Exception) -> UnsupportedError | None:
    """Word autograd's refusal of what the model does after the layer, or return None."""
    words = " ".join(str(error).split()).partition(" Hint:")[0]
    if IN_PLACE.search(words):
        return UnsupportedError(
            "after the layer the model writes in place into a tensor that its gradient needs: "
            f"{words}; choose a later layer, or replace that operation by one not in place"
        )
    if CHECKPOINT.search(words):
        return UnsupportedError(
            "after the layer the model uses torch.utils.checkpoint with use_reentrant=True, which "
            "gives a layer no gradient; use use_reentrant=False, or switch checkpointing off"
        )
    return None


def _names(module: nn.Module) -> str:
    return ", ".join(parameters(module)) or "no arguments"
