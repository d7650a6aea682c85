"""Peak memory beside that of plain inference and of peers, each in processes of its own."""

import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from adapters import FRAMEWORKS, opened
from memory import NO_PEER
from networks import NETWORKS
from peers import installed

PROCESSES = 2  # of each kind, in turn: some figures vary with the threads that come first
BATCHES = (1, 8, 32)  # one after another in a process
PEERS_BATCHES = BATCHES[:2]  # some of them take minutes for 32
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")


@cache
def model_file(framework: str, name: str, folder: Path) -> Path:
    model, path = opened(framework, name).model, folder / f"{framework}-{name}"
    if framework == "onnx":
        path = path.with_suffix(".onnx")
        path.write_bytes(model)
    elif framework == "tensorflow":
        path = path.with_suffix(".keras")
        model.save(path)
    else:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(model, path)
    return path


def measured(command: Sequence[object], batches: Sequence[int]) -> np.ndarray | None:
    """Return megabytes of one process, (1 + batches,): after the imports, the peak of each batch.

    None where a peer does not work on the model.
    """
    whole = [str(word) for word in (sys.executable, HERE / "memory.py", *command, *batches)]
    ended = subprocess.run(whole, stdout=subprocess.PIPE, env=os.environ, check=False)
    if ended.returncode == NO_PEER:
        return None
    ended.check_returncode()
    return np.array(ended.stdout.split()[-1 - len(batches) :], float)


def peaks(
    command: Sequence[object], who: Mapping[str, Sequence[int]], processes: int
) -> dict[str, np.ndarray]:
    """Return megabytes by who, (processes, 1 + batches), of processes that take turns."""
    framework, path, name, method = command
    found: dict[str, list[np.ndarray | None]] = {kind: [] for kind in who}
    for _ in range(processes):
        for kind, batches in who.items():
            found[kind].append(measured((framework, path, name, kind, method), batches))
    for kind in who:
        if found[kind][0] is None:
            warnings.warn(f"{kind} does not run {name}", stacklevel=2)
    return {kind: np.stack(rows) for kind, rows in found.items() if rows[0] is not None}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_peak(framework, name, record_turns, request, tmp_path_factory):
    path = model_file(framework, name, tmp_path_factory.getbasetemp())
    who = dict.fromkeys(("plain", "ours"), BATCHES)
    who |= dict.fromkeys(installed(framework), PEERS_BATCHES)
    processes = request.config.option.turns or PROCESSES
    found = peaks((framework, path, name, "gradcam"), who, processes)
    about = {"model": name, "framework": framework, "method": "gradcam", "unit": "MB"}
    for column, batch in enumerate(BATCHES, start=1):
        rows = {kind: r[:, column] for kind, r in found.items() if column < r.shape[1]}
        record_turns("memory", rows, batch=batch, **about)
        beyond = {kind: found[kind][:, column] - found[kind][:, 0] for kind in ("plain", "ours")}
        record_turns("memory", beyond, batch=batch, size="beyond imports", **about)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_512_channels(framework, record_turns, request, tmp_path_factory):
    """Score-CAM on SqueezeNet, which runs the model once a channel, beside one plain inference."""
    path = model_file(framework, "SqueezeNet", tmp_path_factory.getbasetemp())
    processes = request.config.option.turns or PROCESSES
    who = dict.fromkeys(("plain", "ours"), (1,))
    found = peaks((framework, path, "SqueezeNet", "scorecam"), who, processes)
    about = {"model": "SqueezeNet", "framework": framework, "method": "scorecam", "unit": "MB"}
    rows = {kind: figures[:, 1] for kind, figures in found.items()}
    record_turns("memory", rows, batch=1, **about)
