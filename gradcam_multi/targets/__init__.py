"""What is explained: a score of what the model returned for an item, and the score's derivative.

A target sees the logits of one item in float64 and says what score they give and how the score
changes with each. All the rest of a network is the adapter's vector-Jacobian product.
"""

from gradcam_multi.targets.batches import (
    Scored,
    as_targets,
    chosen_output,
    class_scores,
    outputs_read,
    score_batch,
)
from gradcam_multi.targets.classes import (
    ClassScore,
    LogProbability,
    Probability,
    TopClass,
    class_name,
    probability,
)
from gradcam_multi.targets.combinations import Binary, ClassDifference, MultiLabel, Regression
from gradcam_multi.targets.detections import BoxHead, BoxScore
from gradcam_multi.targets.embeddings import Similarity
from gradcam_multi.targets.functions import FunctionScore
from gradcam_multi.targets.protocol import (
    Activation,
    AnyTarget,
    Item,
    ItemTarget,
    Target,
    reads_rows,
)
from gradcam_multi.targets.regions import RegionScore
from gradcam_multi.targets.sequences import TokenLogProbability

__all__ = [
    "Activation",
    "AnyTarget",
    "Binary",
    "BoxHead",
    "BoxScore",
    "ClassDifference",
    "ClassScore",
    "FunctionScore",
    "Item",
    "ItemTarget",
    "LogProbability",
    "MultiLabel",
    "Probability",
    "RegionScore",
    "Regression",
    "Scored",
    "Similarity",
    "Target",
    "TokenLogProbability",
    "TopClass",
    "as_targets",
    "chosen_output",
    "class_name",
    "class_scores",
    "outputs_read",
    "probability",
    "reads_rows",
    "score_batch",
]
