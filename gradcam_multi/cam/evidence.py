"""What was measured of the methods, by examples/measure_sanity.py: is a map blind to something?"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

Blindness = Literal["weights", "class"]
Network = Literal["sound", "tokens"]
"""The demo's network of convolutions; the one of tokens that examples/token_network.py builds."""
FILE = "evidence.json"
LIMIT = 0.5


@dataclass(frozen=True)
class Evidence:
    """How alike a method's maps stay: 1 is the same, 0 unrelated.

    `weights` is the mean of Spearman's correlations once all weights are redrawn (Adebayo 2018,
    arXiv:1810.03292), `classes` that for another class, drawn by lot (Sixt 2020, arXiv:1912.09818).
    Measured on the demo's sound network, or on that of tokens where the sound one is refused.
    """

    weights: float
    classes: float
    network: Network = "sound"

    @property
    def blind_to(self) -> tuple[Blindness, ...]:
        """What the map does not depend on: where the correlation is above 0.5."""
        found: list[Blindness] = []
        if self.weights > LIMIT:
            found.append("weights")
        if self.classes > LIMIT:
            found.append("class")
        return tuple(found)


@cache
def evidence() -> dict[str, Evidence]:
    """Return what was measured of each method."""
    text = (resources.files("gradcam_multi.cam") / FILE).read_text("utf-8")
    return {name: Evidence(**row) for name, row in json.loads(text).items()}
