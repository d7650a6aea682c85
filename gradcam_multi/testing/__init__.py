"""What an adapter must hold, as tests that anyone's adapter can run: see `AdapterConformance`."""

import pytest

# Before the modules are imported, so that a failing assertion shows its values.
pytest.register_assert_rewrite("gradcam_multi.testing.conformance", "gradcam_multi.testing.numbers")

from gradcam_multi.testing.adapter import Variant  # noqa: E402, see above
from gradcam_multi.testing.conformance import AdapterConformance  # noqa: E402
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network  # noqa: E402

__all__ = ["AdapterConformance", "Reference", "Variant", "probe_inputs", "probe_network"]
