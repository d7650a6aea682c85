"""The default layer is the same tensor in a framework and in its exports, and so is its map."""

from collections.abc import Callable

import exports_keras
import exports_torch
import pytest
from catalogue import BY_KERAS, KERAS, TORCH_CASES
from default_layers import check
from known_findings import EXPORTER_FAILS

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::gradcam_multi.CamWarning",  # a class with evidence against it only: zeros on both
)

CASES = [case for case in TORCH_CASES if case not in EXPORTER_FAILS]


@pytest.mark.parametrize(
    ("network", "exporter"), CASES, ids=["-".join(c).replace(", ", "_") for c in CASES]
)
def test_of_torch_exports(
    network: str, exporter: str, exported_by_torch: Callable[[str, str, int], bytes]
) -> None:
    described = exports_torch.NETWORKS[network]
    module = exports_torch.built(described)
    check(module, exported_by_torch(network, exporter, 0), exports_torch.drawn(described, 2))


KERAS_NAMES = [name for name in BY_KERAS if (name, KERAS) not in EXPORTER_FAILS]


@pytest.mark.parametrize("network", KERAS_NAMES)
def test_of_keras_exports(network: str, exported_by_keras: Callable[[str], bytes]) -> None:
    model = exports_keras.built(exports_keras.NETWORKS[network])
    check(model, exported_by_keras(network), exports_keras.drawn(model, 2))
