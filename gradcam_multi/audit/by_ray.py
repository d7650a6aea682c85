"""An audit on Ray Data: an actor for each worker, parts as tasks, the same rows as without.

Ray runs a task again when its worker dies, which its defaults do without end; a part is the same
whoever makes it, and it is the driver alone that writes.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gradcam_multi.audit.examiner import Examiner, cores
from gradcam_multi.audit.items import Item
from gradcam_multi.audit.listed import Columns, Source
from gradcam_multi.audit.schema import from_bytes, to_bytes, without_null_maps
from gradcam_multi.audit.settings import Settings
from gradcam_multi.audit.tables import known_of, read_of
from gradcam_multi.errors import AuditError, GradcamError

ROWS = 32
"""Rows of a Dataset that are handed over at once; the model takes fewer where they are large."""


class PartActor:
    """Examines parts; a batch is one row with the part's number and pictures."""

    def __init__(self, model: Any, settings: Settings, source: Source) -> None:
        self.examiner = Examiner(model, settings, workers=cores())
        self.source = source

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the part as the bytes of a Parquet file; a user's error as text."""
        (number,), (start,), (stop,) = batch["part"], batch["start"], batch["stop"]
        try:
            part = int(number), range(int(start), int(stop))
            ((_, table),) = self.examiner.tables(self.source, [part])
            content, error = to_bytes(table, {}), ""
        except GradcamError as raised:  # Ray would wrap it in the traceback of a remote task
            content, error = b"", str(raised)
        return {"part": [number], "table": [content], "error": [error]}


def tables(
    model: Any,
    settings: Settings,
    source: Source,
    todo: Sequence[tuple[int, range]],
    workers: int | None,
    address: str | None,
    tick: Callable[[int], object],
) -> Iterator[tuple[int, Any]]:
    """Have Ray examine ranges of a source's pictures; yield each one's number and table.

    `address` is that of a cluster, None for the one that Ray knows, or else one of this machine
    alone, which is stopped at the end.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        _connect(address)
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the audit has a bar of its own
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"part": n, "start": each.start, "stop": each.stop} for n, each in todo]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            PartActor,
            batch_size=1,
            concurrency=min(workers or _actors(), len(rows)),
            fn_constructor_args=(_portable(model), settings, source),
            num_cpus=1,
        )
        for row in found.iter_rows():
            if row["error"]:
                raise AuditError(row["error"])
            table = from_bytes(row["table"])
            tick(table.num_rows)
            yield int(row["part"]), table
    finally:
        if started:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise AuditError(
            f"cannot reach Ray at {address or 'this machine'!r}: {str(error).splitlines()[0]}; "
            "check --ray-address, or leave it out for one on this machine"
        ) from error


def _actors() -> int:
    """All cores but one: with an actor on each, Ray has none left for what feeds them."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)


def _portable(model: Any) -> Any:
    """A file's path as an actor, which runs in another folder, finds it."""
    return os.path.abspath(model) if isinstance(model, (str, os.PathLike)) else model


class RowActor:
    """Examines the rows of a Ray Dataset."""

    def __init__(self, model: Any, settings: Settings, columns: Columns, name: str) -> None:
        self.examiner = Examiner(model, settings, name)
        self.columns = columns

    def __call__(self, batch: dict[str, Any]) -> Any:
        """Return a table with a row for each of a batch."""
        read = read_of("the Ray Dataset", list(batch), self.columns)
        pictures = batch[read.image]
        items = []
        for row, picture in enumerate(pictures):
            known = known_of({name: _plain(batch[name][row]) for name in read.known}, read, "a row")
            path = batch["path"][row] if "path" in batch else picture
            items.append(
                Item(path if isinstance(path, str) else "", picture, known["label"], known["box"])
            )
        table = self.examiner.examine(self.examiner.decode(items), 0).drop_columns(["index"])
        table = without_null_maps(table)
        for name, values in batch.items():
            if name not in (*table.column_names, read.image, *read.box) and values.ndim == 1:
                table = table.append_column(name, pa.array(values.tolist()))
        return table


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def examined(
    model: Any,
    dataset: Any,
    settings: Settings,
    columns: Columns,
    name: str,
    workers: int | None,
) -> Any:
    """Return a Ray Dataset with the columns of an audit, one row for each of a Dataset's.

    There is no `index`: rows of a Dataset have no place. Its other columns are kept where their
    values are single. The map of what failed is zero: Ray reads no tensors that are null.
    """
    return dataset.map_batches(
        RowActor,
        batch_size=settings.batch or ROWS,
        batch_format="numpy",
        concurrency=workers or _actors(),
        fn_constructor_args=(_portable(model), settings, columns, name),
        num_cpus=1,
    )
