"""The table of an audit: its columns, how they are stored, and the bytes of a part."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradcam_multi.audit.figures import CORNERS
from gradcam_multi.spec import Array

Grid = tuple[int, int]

TOP = 5
"""How many of the highest classes a row names, where there are so many."""
_KEY = b"gradcam_audit"


def map_type(shape: tuple[int, ...]) -> Any:
    """Return the type of maps of a shape: Arrow's own fixed-shape tensor of float16."""
    return pa.fixed_shape_tensor(pa.float16(), shape)


def schema_of(grid: Grid, maps: int = 0) -> Any:
    """Return the columns of an audit with maps of a grid (h, w).

    `maps` is how many of the highest classes have a map of their own; 0 for none but the target's.
    """
    fields: dict[str, Any] = {
        "index": pa.int64(),
        "path": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "view": pa.list_(pa.float32(), 4),
        "label": pa.string(),
        "label_index": pa.int32(),
        "box": pa.list_(pa.float32(), 4),
        "top5": pa.list_(pa.int32()),
        "top5_scores": pa.list_(pa.float32()),
        "top5_probabilities": pa.list_(pa.float32()),
        "correct": pa.bool_(),
        "target": pa.int32(),
        "target_name": pa.string(),
        "score": pa.float64(),
        "probability": pa.float32(),
        "layer": pa.string(),
        "method": pa.string(),
        "status": pa.string(),
        "map": map_type(grid),
        "map_scale": pa.float32(),
        "peak_row": pa.float32(),
        "peak_column": pa.float32(),
        "peak_in_box": pa.bool_(),
        "box_energy": pa.float32(),
        "border_energy": pa.float32(),
        **{f"{name}_energy": pa.float32() for name in CORNERS},
        "entropy": pa.float32(),
    }
    if maps:
        fields["top_maps"] = map_type((maps, *grid))
        fields["top_maps_scale"] = pa.list_(pa.float32(), maps)
    fields["error"] = pa.string()
    return pa.schema(fields)


_TEXT = ("label", "target_name", "layer", "method", "status", "error")
_FLOATS = ("map", "top_maps")


def half_maps(maps: Array) -> tuple[NDArray[np.float16], Array]:
    """Return maps (N, ..., h, w) in float16 divided by their largest magnitude, and that, (N, ...).

    So kept, a value is right to 2^-11 of itself, or to 3e-8 of the map's largest, whatever the
    unit of the score; values beyond float16's range would else be lost.
    """
    largest: Array = np.abs(maps).max((-2, -1))
    largest = np.where(np.isfinite(largest), largest, np.float32(0))
    divisor = np.where(largest > 0, largest, np.float32(1))[..., None, None]
    return (maps / divisor).astype(np.float16), largest


def tensor_column(values: NDArray[np.float16], missing: NDArray[np.bool_]) -> Any:
    """Return (N, *shape) maps as a column; null where missing."""
    size = int(np.prod(values.shape[1:]))
    flat = pa.array(values.reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, size, mask=pa.array(missing))
    return pa.ExtensionArray.from_storage(map_type(values.shape[1:]), storage)


def without_null_maps(table: Any) -> Any:
    """Return a table whose maps are zero where they were null."""
    for name in _FLOATS:
        if name in table.column_names:
            column = table[name].combine_chunks()
            values = column.storage.values.to_numpy(zero_copy_only=False)
            maps = values.reshape(len(column), *column.type.shape)
            there = np.zeros(len(column), np.bool_)
            filled = tensor_column(maps, there)
            table = table.set_column(table.column_names.index(name), name, filled)
    return table


def to_bytes(table: Any, about: Mapping[str, Any]) -> bytes:
    """Return a table as the bytes of a Parquet file that says of which audit it is a part.

    Text is stored by dictionary; maps are split by bytes, as exponents and signs are alike.
    """
    metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(about).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        use_dictionary=[name for name in _TEXT if name in table.column_names],
        column_encoding={
            f"{name}.list.element": "BYTE_STREAM_SPLIT"
            for name in _FLOATS
            if name in table.column_names
        },
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def said_of(metadata: Any) -> dict[str, Any]:
    """Return what `to_bytes` has a file's metadata say; nothing for other files."""
    found = (metadata or {}).get(_KEY)
    return {} if found is None else dict(json.loads(found))


def from_bytes(content: bytes) -> Any:
    """Return the table of what `to_bytes` made."""
    table = pq.read_table(pa.BufferReader(content))
    return table.replace_schema_metadata(None)
