"""What an adapter must hold, as tests that anyone's adapter can run: see `AdapterConformance`."""

from gradcam_multi.testing.conformance import AdapterConformance, Variant
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network

__all__ = ["AdapterConformance", "Reference", "Variant", "probe_inputs", "probe_network"]
