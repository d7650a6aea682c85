"""How good is an explanation? The metrics of the literature, for every method and framework.

Each is a function of arrays, channels first, and of a `Score`; `METRICS` is their table, and
`evaluate` measures them for a model. docs/metrics.md has every definition and its source.
"""

from gradcam_multi.metrics.baselines import Baseline, baseline_of, blurred
from gradcam_multi.metrics.confidence import average_drop, average_gain, increase, masked
from gradcam_multi.metrics.curves import Curve, deletion, insertion
from gradcam_multi.metrics.evaluation import RANDOM, Evaluation
from gradcam_multi.metrics.evaluator import Evaluator, RandomMaps, evaluate
from gradcam_multi.metrics.fidelity import mu_fidelity
from gradcam_multi.metrics.imputation import Road, imputed, road
from gradcam_multi.metrics.localization import box_masks, energy, iou, pointing_game
from gradcam_multi.metrics.quality import adcc, coherency, complexity
from gradcam_multi.metrics.sanity import (
    Cascade,
    Randomise,
    cascade,
    model_similarity,
    random_logit,
    shuffled,
    weighted_layers,
)
from gradcam_multi.metrics.score import ModelScore, Score
from gradcam_multi.metrics.stability import max_sensitivity
from gradcam_multi.metrics.table import METRICS, Case, Metric, Options

__all__ = [
    "METRICS",
    "RANDOM",
    "Baseline",
    "Cascade",
    "Case",
    "Curve",
    "Evaluation",
    "Evaluator",
    "Metric",
    "ModelScore",
    "Options",
    "RandomMaps",
    "Randomise",
    "Road",
    "Score",
    "adcc",
    "average_drop",
    "average_gain",
    "baseline_of",
    "blurred",
    "box_masks",
    "cascade",
    "coherency",
    "complexity",
    "deletion",
    "energy",
    "evaluate",
    "imputed",
    "increase",
    "insertion",
    "iou",
    "masked",
    "max_sensitivity",
    "model_similarity",
    "mu_fidelity",
    "pointing_game",
    "random_logit",
    "road",
    "shuffled",
    "weighted_layers",
]
