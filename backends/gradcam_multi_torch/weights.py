"""Files of weights, loaded whole or not at all."""

import pickle
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradcam_multi.errors import MissingExtraError, ModelFileError, suggest
from gradcam_multi_torch.model import unwrap

# Under which key training programs put the weights beside their optimiser and epoch.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
# What DataParallel and DDP, torch.compile and Lightning put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
FEW = 3  # names in a message


def load_weights(model: nn.Module, path: str, trust: bool) -> None:
    """Load a file of weights, PyTorch's or safetensors, into a module.

    All names and shapes are compared before the first is loaded. Wrappers around the weights
    (`{"state_dict": ...}`) and a prefix of all names (`module.`) are taken off. A pickle of more
    than tensors is unpickled only where `trust` is true. Raises ModelFileError and
    MissingExtraError.
    """
    module = unwrap(model)
    given = read(path, trust)
    if isinstance(given, nn.Module):
        given = given.state_dict()
    own = module.state_dict(keep_vars=True)
    state = _fitted(_unwrapped(given, path), own)
    # Counted in training only, and absent from the files of old versions.
    state |= {
        name: tensor
        for name, tensor in own.items()
        if name not in state and name.endswith(".num_batches_tracked")
    }
    if misfits := _misfits(state, own):
        raise ModelFileError(
            f"the weights {path!r} do not fit the {type(module).__name__}: {'; '.join(misfits)}; "
            "nothing was loaded: give the weights of this architecture"
        )
    # Weights that have no storage yet cannot be copied into.
    module.load_state_dict(state, assign=any(tensor.is_meta for tensor in own.values()))


def read(path: str, trust: bool) -> Any:
    """Read what a file holds, onto the CPU; code in it is run only where `trust` is true."""
    file = Path(path)
    if not file.is_file():
        what = "a folder, not a file" if file.is_dir() else "not there"
        raise ModelFileError(f"cannot read the weights {path!r}: it is {what}; check the path")
    if file.suffix.lower() == ".safetensors":
        return _safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        found = " ".join(str(error).split())
        if "weights_only" not in found and "Weights only" not in found:
            raise damaged(path, error) from error
        if not trust:
            raise ModelFileError(
                f"{path!r} is a pickle that holds more than weights ({_refused(found)}), and "
                "unpickling runs code of the file: save module.state_dict(), or give --trust "
                "(trust=True) where you trust the file"
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # code of the file, which can fail in any way
        raise damaged(path, error) from error


def damaged(path: str, error: Exception) -> ModelFileError:
    """Say that a file cannot be read, and why."""
    words = " ".join(str(error).split())[:200] or "nothing in it can be read"
    if isinstance(error, (ModuleNotFoundError, AttributeError)):
        return ModelFileError(
            f"cannot read {path!r}: its classes are not here: {words}; run where the program that "
            "saved it can be imported"
        )
    return ModelFileError(
        f"cannot read {path!r}: {type(error).__name__}: {words}; give what torch.save wrote"
    )


def _refused(words: str) -> str:
    """Name the class that a file asks for, out of PyTorch's refusal."""
    _, found, rest = words.partition("GLOBAL ")
    name = rest.split()[0] if found and rest.split() else ""
    return f"it asks for {name}" if name else "more than PyTorch reads safely"


def _safetensors(path: str) -> dict[str, Tensor]:
    if find_spec("safetensors") is None:
        raise MissingExtraError(
            f"cannot read {path!r}: safetensors is not installed; "
            "run: python -m pip install safetensors"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error
    return tensors


def _unwrapped(given: Any, path: str) -> dict[str, Tensor]:
    """Return the mapping of names to tensors inside what training programs save."""
    found = given
    while isinstance(found, Mapping):
        inner = next((found[key] for key in WRAPPERS if _holds_weights(found.get(key))), None)
        if inner is None:
            break
        found = inner.state_dict() if isinstance(inner, nn.Module) else inner
    tensors = {
        str(name): value
        for name, value in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(value, Tensor)
    }
    if not tensors:
        names = f" with the keys {_some(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ModelFileError(
            f"{path!r} holds a {type(found).__name__}{names}, and no weights by name; "
            "give what torch.save(module.state_dict(), ...) wrote"
        )
    return tensors


def _holds_weights(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(isinstance(each, (Tensor, Mapping, nn.Module)) for each in value.values())
    return isinstance(value, nn.Module)


def _fitted(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take known prefixes off all names, as long as the module has no such names itself."""
    while True:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in state) and not any(
                name.startswith(prefix) for name in own
            ):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                break
        else:
            return state


def _misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in state
        and isinstance(tensor, Tensor)
        and not is_lazy(tensor)  # a lazy layer takes any shape
        and tensor.shape != state[name].shape
    ]
    found = []
    if missing:
        found.append(f"missing {_some(missing)}{suggest(missing[0], unknown, most=1)}")
    if unknown:
        found.append(f"not in the model {_some(unknown)}")
    if shapes:
        found.append(f"of another shape {_some(shapes)}")
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - FEW} more" if len(listed) > FEW else ""
    return f"{len(listed)}: {', '.join(listed[:FEW])}{more}"
