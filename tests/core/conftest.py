from collections.abc import Iterator

import numpy_adapter
import pytest

from gradcam_multi.plugins import installed


@pytest.fixture(autouse=True, scope="module")
def _numpy_backend() -> Iterator[None]:
    installed().manager.register(numpy_adapter, name="numpy")
    yield
    installed().manager.unregister(name="numpy")
