"""What an adapter must hold, as tests that anyone's adapter can run: see `AdapterConformance`."""

import pytest

# Before the modules are imported, so that a failing assertion shows its values.
pytest.register_assert_rewrite(
    *(
        f"gradcam_multi.testing.{name}"
        for name in ("conformance", "numbers", "models", "inputs", "blocks", "adapter")
    )
)

from gradcam_multi.testing.adapter import Variant  # noqa: E402, see above
from gradcam_multi.testing.conformance import AdapterConformance  # noqa: E402
from gradcam_multi.testing.network import Network, Node  # noqa: E402
from gradcam_multi.testing.networks import NETWORKS, inputs_of  # noqa: E402
from gradcam_multi.testing.operators import EPSILON  # noqa: E402
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network  # noqa: E402

__all__ = [
    "EPSILON",
    "NETWORKS",
    "AdapterConformance",
    "Network",
    "Node",
    "Reference",
    "Variant",
    "inputs_of",
    "probe_inputs",
    "probe_network",
]
