"""Colour maps without matplotlib: larger is more evidence, and no map is ever turned round.

Each map is a short table of control points, spread evenly over 0..1 and joined linearly into 256
entries. They hold every fifth entry of the published tables (coolwarm: its 33 published points);
what lies between is within one level of 255 of those.

Sources: ``inferno`` and ``viridis`` by Stefan van der Walt and Nathaniel Smith (2015, CC0);
``turbo`` by Anton Mikhailov (Google, 2019, Apache-2.0); ``coolwarm`` from Kenneth Moreland,
"Diverging Color Maps for Scientific Visualization" (2009), by the table published with it; ``jet``
is the customary piecewise linear one, channel c at 1.5 - |4 x - c|; ``gray`` is linear.

The default is ``inferno``: its lightness rises all the way, so it reads the same printed in grey
and to a colour-blind reader, and it rises from black, so that over a photograph it works as light:
without evidence the picture grows dark and keeps its own hues, where viridis would turn it violet
and jet blue. jet and turbo are for those who must match older figures: their lightness rises
and falls, which draws edges that the numbers do not have.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.errors import ImageError, suggest

DEFAULT_COLORMAP = "inferno"

BLOCK = 16384
"""Pixels that are coloured at a time."""

_CONTROL_POINTS: dict[str, str] = {
    "inferno": (
        "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c59106e"
        "61136e69166e71196e781c6d801f6c88226a902568982766a02a63a82e5fb0315bb73557bf3952c63d4d"
        "cc4248d34743d94d3ddf5337e45a31e9612bed6925f1711ff47918f78212f98b0bfa9407fb9d07fca60c"
        "fcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
    ),
    "viridis": (
        "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b"
        "38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b"
        "1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac86465cb5e70cf577cd250"
        "89d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
    ),
    "turbo": (
        "30123b36215f3b2f803f3e9c424bb54559cb4666dd4773eb4680f6458cfd4099ff38a5fb2fb2f427bee9"
        "1fc9dd1ad4d018ddc21ae4b622ebaa2ff19b3ff68a52fa7a65fd6979fe598bff4b9cfe40a9fb39b7f735"
        "c3f134d0ea34dbe236e5d938eecf3af5c53afaba39fdae35fea130fe932afc8423f9751df46617ef5811"
        "e84b0ce14109d83706ce2d04c32503b71d02a916019b0f018b09027a0403"
    ),
    "coolwarm": (
        "3b4cc0445acc4d68d75775e16282ea6c8ef1779af782a5fb8db0fe98b9ffa3c2ffaec9fdb8d0f9c2d5f4"
        "ccd9eed5dbe6dddddde5d8d1ecd3c5f1ccb9f5c4adf7bba0f7b194f7a687f49a7bf18d6fec7f63e57058"
        "de604dd55042cb3e38c0282fb40426"
    ),
    "jet": "0000800000ff0080ff00ffff80ff80ffff00ff8000ff0000800000",
    "gray": "000000ffffff",
}
"""RGB control points, six hexadecimal digits each."""


def colormap_names() -> tuple[str, ...]:
    """Return the names of the colour maps, sorted."""
    return tuple(sorted(_CONTROL_POINTS))


@lru_cache(maxsize=32)
def lookup_table(colormap: str = DEFAULT_COLORMAP) -> NDArray[np.uint8]:
    """Return the (256, 3) uint8 RGB table of a colour map, read-only.

    Raises ImageError for an unknown name.
    """
    if colormap not in _CONTROL_POINTS:
        raise ImageError(
            f"no colour map {colormap!r}{suggest(str(colormap), colormap_names(), most=1)}; there "
            f"are {', '.join(colormap_names())}"
        )
    points = np.frombuffer(bytes.fromhex(_CONTROL_POINTS[colormap]), np.uint8).reshape(-1, 3)
    at = np.linspace(0, 255, len(points))
    channels = [np.interp(np.arange(256), at, channel) for channel in points.T]
    table = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    table.setflags(write=False)  # shared by every caller through the cache
    return table


def check_range(heatmap: ArrayLike) -> tuple[NDArray[np.float32], bool]:
    """Return the heatmap as float32, and whether it holds NaN.

    Raises ImageError for values outside of [0, 1], of which rounding errors are allowed: a silent
    clip would draw a picture of something else.
    """
    values = np.asarray(heatmap, np.float32)
    if values.ndim < 2:
        raise ImageError(f"a heatmap is (..., H, W), this one has the shape {values.shape}")
    if not values.size:
        return values, False
    low, high = values.min(), values.max()  # NaN where there is one: one pass says both
    missing = bool(np.isnan(low))
    if missing:
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(
            f"a heatmap lies in [0, 1], this one goes from {low:.4g} to {high:.4g}: scale it "
            "first (a signed map x of [-1, 1] to (x + 1) / 2 for a diverging colour map)"
        )
    return values, missing


_ROUNDING = 1e-3  # a quarter of a level of 255: it cannot be seen, and cannot leave the table


def colorize(heatmap: ArrayLike, colormap: str = DEFAULT_COLORMAP) -> NDArray[np.uint8]:
    """Colour (..., H, W) heatmaps in [0, 1] as (..., H, W, 3) uint8 RGB.

    The value v takes entry round(255 v) of the table; NaN takes entry 0 (`overlay` leaves such
    pixels out instead). Raises ImageError for values outside of [0, 1] and for an unknown name.
    """
    table = lookup_table(colormap)
    values, missing = check_range(heatmap)
    flat = (np.nan_to_num(values, nan=0.0) if missing else values).reshape(-1)
    out = np.empty((*values.shape, 3), np.uint8)
    # One item of three bytes a pixel: NumPy's take copies it whole, faster than a row of three.
    # "clip" writes straight to the result; nothing is left to clip.
    entries, pixels = table.view("V3")[:, 0], out.reshape(-1).view("V3")
    for block, index in table_indices(flat):
        np.take(entries, index, out=pixels[block], mode="clip")
    return out


def table_indices(flat: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.intp]]]:
    """Yield blocks of a flat heatmap in [0, 1] and their table entries, round(255 v).

    The entries are overwritten by those of the next block: in blocks all that is temporary stays
    in the processor's cache, which makes large pictures several times as fast.
    """
    scaled, index = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.intp)
    for start in range(0, len(flat), BLOCK):
        block = slice(start, min(start + BLOCK, len(flat)))
        count = block.stop - start
        np.multiply(flat[block], np.float32(255), out=scaled[:count])
        scaled[:count] += np.float32(0.5)  # the cast truncates
        index[:count] = scaled[:count]
        yield block, index[:count]
