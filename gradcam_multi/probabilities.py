"""The probabilities in what a model returned, and where they hide the logits behind them."""

from collections.abc import Callable, Sequence

import numpy as np

from gradcam_multi.spec import Array
from gradcam_multi.targets import Activation, AnyTarget, class_scores, probability, reads_rows

SATURATED = (
    "the model returns probabilities whose logits cannot be reached, and the explained class has "
    "more than 0.99: gradients underflow there; hand over the model as it is before its softmax"
)
_SURE = 0.99


def of_targets(targets: Sequence[AnyTarget], rows: Callable[[], np.ndarray]) -> np.ndarray:
    """Return (N,) float64 probabilities of the targets' classes; NaN where one is about none.

    `rows` gives those of every class, (N, classes); it is called where a target has a class.
    """
    told = [_probability_of(target) for target in targets]
    if not any(told):
        return np.full(len(told), np.nan)
    return np.array([np.nan if of is None else of(p) for of, p in zip(told, rows(), strict=True)])


def of_classes(outputs: Array, logits: Array, output: str, activation: Activation) -> np.ndarray:
    """Return (N, classes) float64 probabilities from a model's output and its logits.

    Raises TargetError where the output, `output` by name, is no class scores.
    """
    own = class_scores(outputs, output)
    # The model's own are more precise than logits in half precision; but behind a logarithm
    # (log-softmax) they are none.
    if activation is None:
        trusted = bool(_are_probabilities(own).all())  # their logits are out of reach
    else:
        trusted = bool((own >= 0).all())
    scores = class_scores(logits, output)
    return own if trusted else probability(scores, activation)


def saturated(targets: Sequence[AnyTarget], logits: Array, output: str) -> np.ndarray:
    """Return (N,) bool: whether what stands for logits are probabilities, the target's above 0.99.

    Raises TargetError where a target has a class and the output is no class scores.
    """
    found = np.zeros(len(targets), np.bool_)
    told = [_probability_of(target) for target in targets]
    if not any(told):
        return found
    rows = class_scores(logits, output)
    for i in np.flatnonzero(_are_probabilities(rows)):
        of = told[i]
        found[i] = of is not None and of(rows[i]) > _SURE
    return found


def _probability_of(target: AnyTarget) -> Callable[[np.ndarray], float] | None:
    """How to read a target's probability from those of all classes; None where it has none."""
    if not reads_rows(target):
        return None
    own: Callable[[np.ndarray], float] | None = getattr(target, "probability_of", None)
    index = getattr(target, "index", None)
    if own is not None or index is None:
        return own
    return lambda probabilities: float(probabilities[index])


def _are_probabilities(rows: np.ndarray) -> np.ndarray:
    """(N,) whether rows of several scores are probabilities of classes that exclude each other."""
    if rows.shape[1] < 2:
        return np.zeros(len(rows), np.bool_)
    found = np.asarray((rows >= 0).all(1))
    if found.any():  # rounded to half precision, they still sum to 1 but for 11 bits of each
        found &= np.abs(rows.sum(1) - 1) < 1e-3
    return found
