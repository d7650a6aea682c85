import pytest


def pytest_configure(config: pytest.Config) -> None:
    try:
        import gradcam_multi  # noqa: F401, the filter below names a class of it
    except ImportError:
        return  # where the wheel is built, nothing is installed
    # A test that makes a poor map has to expect the warning.
    config.addinivalue_line("filterwarnings", "error::gradcam_multi.CamWarning")
