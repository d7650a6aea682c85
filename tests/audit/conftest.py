import pytest


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    from audit_scenes import Scenes

    return Scenes(tmp_path_factory.mktemp("scenes"))
