"""LeGrad: what more attention would do for the score that the head gives to each block's tokens."""

import numpy as np

from gradcam_multi.cam.probe import Attended, Probe, Scores
from gradcam_multi.spec import Array

TOKEN_MODELS = "token models whose head reads the last block's tokens, each attending to all"


def legrad(probe: Probe) -> Array:
    """Average the positive gradients of all blocks' attention (Bousselham 2024), (N, *grid).

    Over blocks, heads and queries; what is left is each token's share as a key. Raises
    UnsupportedError for a model without such blocks.
    """
    rows = [_shares(each) for each in probe.attended()]
    return probe.on_grid(np.mean(rows, axis=0))


def _shares(found: Attended) -> Scores:
    """The mean over heads and queries of r(dS/dA), (N, keys), A = `queries` times `keys` weights.

    With O = A V, dS/dA is dS/dO V'. It is made for one item at a time: it has the size of A.
    """
    items = zip(found.gradient, np.swapaxes(found.values, -1, -2), strict=True)
    shares: Scores = np.stack(
        [np.maximum(g @ v, 0).mean((0, 1), dtype=np.float64) for g, v in items]
    )
    return shares
