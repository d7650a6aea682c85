"""What an audit needs besides the core, and how to get it."""

from importlib.util import find_spec

from gradcam_multi.errors import MissingExtraError


def require(package: str, extra: str) -> None:
    """Raise MissingExtraError where a package is absent."""
    if find_spec(package) is None:
        raise MissingExtraError(
            f"an audit needs {package}, which is not installed; "
            f'run: python -m pip install "gradcam-multi[{extra}]"'
        )
