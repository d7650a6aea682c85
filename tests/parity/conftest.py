"""All three frameworks in one process."""

import pytest

for name in ("torch", "tensorflow", "keras", "onnx", "onnxruntime"):
    pytest.importorskip(name, reason=f"{name} is not installed; tox -e parity installs all")
