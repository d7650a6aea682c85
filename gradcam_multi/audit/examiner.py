"""From pictures to rows: decoding beside inference, and what is recorded of each picture.

Where a model can be run side by side (ONNX, on the CPU), a thread decodes a batch and explains it
itself: a framework's own threads share a small network's work badly, as they wait for each other
at every layer, and would take the cores from what decodes. Elsewhere threads decode ahead of one
that explains.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Semaphore
from typing import Any

import numpy as np
import pyarrow as pa

from gradcam_multi.audit.items import Batch, Decoded, Item, read_picture
from gradcam_multi.audit.listed import Source
from gradcam_multi.audit.rows import Reader, rows_of
from gradcam_multi.audit.schema import Grid, schema_of
from gradcam_multi.audit.settings import Settings
from gradcam_multi.errors import GradcamError, ImageError, InputError
from gradcam_multi.explanation import Explanation
from gradcam_multi.notices import silent
from gradcam_multi.picture_input import PictureInput
from gradcam_multi.preprocess import DEFAULT_SIZE
from gradcam_multi.sizes import items_at_once
from gradcam_multi.spec import Array
from gradcam_multi.targets import Binary, TopClass

_SWITCH = 5e-4
"""Seconds until a decoding thread has to let the explaining one go on. With Python's own, ten times
as long, the latter waits at each of its many short steps; a tenth of the throughput is lost."""

_AT_ONCE = 2
"""Batches in the model at the same time: one computes while Python is busy with the other. More
would want more memory."""

_WAITING = 4
"""Tables of batches that may wait until a part is on the disk: a slow one holds up nobody."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Examiner:
    """A model opened for an audit; pictures go in, tables of rows come out.

    `workers` is how many threads make `tables`; left out by whoever examines batches by himself.
    `probe` are the model's scores for a made-up picture, `grid` is that of its maps. Raises what
    `Explainer` raises, and InputError where the model does not take pictures, or its map is none.
    """

    def __init__(
        self,
        model: Any,
        settings: Settings,
        name: str = "the model",
        workers: int = 0,
    ) -> None:
        self.settings = settings
        self.workers = workers
        self.explainer = settings.explainer(model)
        self.room = self._room()
        self.takes = PictureInput.of(self.explainer.model, name)
        fixed = self.explainer.model.inputs[0].shape[0] if self.explainer.model.inputs else None
        own = settings.preprocess.size or DEFAULT_SIZE
        height, width = (mine or other for mine, other in zip(self.takes.size, own, strict=True))
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        prepared = self.takes.apply(settings.preprocess, noise)[0][None]
        self.batch = (
            1 if fixed == 1 else settings.batch or items_at_once(prepared, self.explainer.model)
        )
        self.explainer.batch_size = self.batch
        first = self._explain(prepared)[0]
        if first.cam.ndim != 3:
            raise InputError(
                f"the map of {first.layer!r} has {first.cam.ndim - 1} axes, not rows and columns: "
                "an audit is of pictures; name a layer with such a grid"
            )
        self.grid: Grid = (first.cam.shape[1], first.cam.shape[2])
        one = first.outputs[0].size == 1
        asked = settings.target is None and len(settings.labels or ()) == 2
        if one and asked:
            self.settings = settings = replace(settings, target=Binary())
        yes_or_no = one and isinstance(settings.target, Binary)
        self.reader = Reader(settings.labels, self.grid, yes_or_no=yes_or_no)
        self.schema = schema_of(self.grid, settings.top)
        logits = self.reader.scores(first)
        self.classes = logits.shape[1]
        self.probe: Sequence[float] = logits[0, :16].tolist()

    def _room(self) -> Semaphore | None:
        """Open the model for several threads where it can be; return what lets so many in."""
        able = getattr(self.explainer.model, "side_by_side", None)
        several = min(self.workers, _AT_ONCE)
        if not several or able is None:
            return None
        found = able(max(1, min(self.workers, cores()) - several + 1))
        if found is None:
            return None
        self.explainer.model = found
        return Semaphore(several)

    def tables(
        self,
        source: Source,
        parts: Iterable[tuple[int, range]],
        tick: Callable[[int], object] = lambda count: None,
    ) -> Iterator[tuple[int, Any]]:
        """Examine ranges of a source's pictures; yield each one's number and table.

        A bounded number of pictures is in memory. `tick` is told how many pictures are done, a few
        at a time.
        """
        workers = self.workers or cores()
        most = workers + (_WAITING if self.room else 0)
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            ahead: deque[tuple[int, int, bool, Future[Any]]] = deque()
            pieces: list[Any] = []
            interval = sys.getswitchinterval()
            try:
                sys.setswitchinterval(min(interval, _SWITCH))
                for number, first, last, items in self._chunks(source, parts):
                    ahead.append((number, first, last, pool.submit(self._begin, items, first)))
                    if len(ahead) > most:
                        yield from self._next(ahead, pieces, tick)
                while ahead:
                    yield from self._next(ahead, pieces, tick)
            finally:
                sys.setswitchinterval(interval)
                for *_, future in ahead:
                    future.cancel()

    def _chunks(
        self, source: Source, parts: Iterable[tuple[int, range]]
    ) -> Iterator[tuple[int, int, bool, list[Item]]]:
        for number, pictures in parts:
            for first in range(pictures.start, pictures.stop, self.batch):
                stop = min(first + self.batch, pictures.stop)
                yield number, first, stop == pictures.stop, source.items(first, stop)

    def _next(
        self, ahead: deque[Any], pieces: list[Any], tick: Callable[[int], object]
    ) -> Iterator[tuple[int, Any]]:
        number, first, last, future = ahead.popleft()
        found = future.result()
        pieces.append(self.examine(found, first) if isinstance(found, Batch) else found)
        tick(pieces[-1].num_rows)
        if last:
            yield number, pa.concat_tables(pieces).combine_chunks()
            pieces.clear()

    def _begin(self, items: Sequence[Item], first: int) -> Any:
        """Return the rows of some pictures, or, where one thread alone explains, decode these."""
        batch = self.decode(items)
        if self.room is None:
            return batch
        with self.room:
            return self.examine(batch, first)

    def decode(self, items: Sequence[Item]) -> Batch:
        """Read and prepare pictures; what is wrong with one is said in its place."""
        found: list[Decoded] = []
        arrays, good = np.empty((0,), np.float32), 0
        for item in items:
            try:
                array, geometry = self.takes.apply(self.settings.preprocess, read_picture(item))
                if not good:  # where the model will read them, so that they are written once
                    arrays = np.empty((len(items), *array.shape), array.dtype)
                arrays[good] = array
                good += 1
                found.append(Decoded(item, geometry))
            except ImageError as error:
                found.append(Decoded(item, error=str(error)))
            except GradcamError:
                raise  # of all pictures alike
            except Exception as error:  # a decoder may raise anything
                found.append(Decoded(item, error=f"{type(error).__name__}: {error}"))
        return Batch(found, arrays[:good])

    def examine(self, batch: Batch, first: int) -> Any:
        """Explain decoded pictures; return their rows, the first with this index."""
        explained = self._explain(batch.arrays) if len(batch.arrays) else []
        if explained and explained[0].cam.shape[1:] != self.grid:
            raise InputError(
                f"the map of {explained[0].layer!r} has the grid {explained[0].cam.shape[1:]} for "
                f"one picture and {self.grid} for another: give 'size' in a preprocessing file"
            )
        return rows_of(self.reader, self.schema, batch.pictures, explained, first)

    def _explain(self, arrays: Array) -> list[Explanation]:
        """The explanation of the target, and of the highest classes where these are kept."""
        targets = [self.settings.target, *map(TopClass, range(self.settings.top))]
        with silent():  # each row has its status
            return self.explainer.several(arrays, targets)
