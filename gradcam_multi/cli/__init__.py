"""The command line; each command is a module of its own, imported when it is called."""

from gradcam_multi.cli.main import main

__all__ = ["main"]
