import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    # A test that makes a poor map has to expect the warning.
    config.addinivalue_line("filterwarnings", "error::gradcam_multi.CamWarning")


@pytest.fixture(autouse=True, scope="session")
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test traces a network anew; compiled code is the same and need not be made again."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
