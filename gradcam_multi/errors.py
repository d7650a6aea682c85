"""Every error that gradcam_multi raises on purpose; a leaf that imports nothing.

::

    GradcamError
    ├── ModelError                    the model cannot be opened
    │   ├── UnknownModelError         no adapter claims it
    │   ├── UnknownBackendError       no adapter of that name
    │   ├── MissingExtraError         its framework is not installed
    │   ├── ModelFileError            the file is damaged, or not what its name says
    │   ├── UnsupportedError          a part of the model cannot be differentiated
    │   └── ExportError               no file can be written that explains the model
    ├── LayerError
    │   ├── UnknownLayerError         no layer of that name
    │   ├── NoDefaultLayerError       no feature map qualifies; name one
    │   ├── LayerNotReachedError      the layer did not run for these inputs
    │   └── LayerNotOnPathError       the score does not depend on the layer
    ├── TargetError                   the target does not fit the outputs
    │   ├── TargetCountError          neither one target nor one an item
    │   └── UnknownClassError         no class of that index or name
    ├── MethodError                   no CAM method of that name
    ├── InputError                    the inputs do not fit the model
    ├── ImageError                    a picture cannot be read
    ├── PreprocessError               a preprocessing is described wrongly
    └── AuditError                    an audit cannot be read, written or resumed

Each also derives from the built-in that a caller would expect (``ValueError``, ``TypeError``,
``ImportError``), so that code which knows nothing of gradcam_multi can catch it. A message is one
line: what was asked, what was found, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class GradcamError(Exception):
    """The root of everything that gradcam_multi raises on purpose."""


class ModelError(GradcamError):
    """The model cannot be opened."""


class UnknownModelError(ModelError, TypeError):
    """No adapter claims this object or file."""


class UnknownBackendError(ModelError, ValueError):
    """No adapter is registered under this name."""


class MissingExtraError(ModelError, ImportError):
    """The adapter claims the model, but its framework is not installed."""


class ModelFileError(ModelError, ValueError):
    """The file is damaged, absent, or not what its name says."""


class UnsupportedError(ModelError, ValueError):
    """A part of the model between the layer and the score cannot be differentiated."""


class ExportError(ModelError, ValueError):
    """No file can be written that gives the model's own maps."""


class LayerError(GradcamError, ValueError):
    """The layer cannot be explained."""


class UnknownLayerError(LayerError):
    """The model has no layer of this name."""


class NoDefaultLayerError(LayerError):
    """No feature map of the model qualifies as the default."""


class LayerNotReachedError(LayerError):
    """The layer exists but did not run for these inputs."""


class LayerNotOnPathError(LayerError):
    """The layer ran, but the score does not depend on its result."""


class TargetError(GradcamError, ValueError):
    """The target does not fit the model's outputs."""


class TargetCountError(TargetError):
    """Neither one target for all items nor one an item was given."""


class UnknownClassError(TargetError):
    """The outputs hold no class of this index or name."""


class MethodError(GradcamError, ValueError):
    """No CAM method is registered under this name."""


class InputError(GradcamError, ValueError):
    """The inputs do not fit the model."""


class ImageError(GradcamError, ValueError):
    """A picture cannot be found or read."""


class PreprocessError(GradcamError, ValueError):
    """A preprocessing is described wrongly."""


class AuditError(GradcamError, ValueError):
    """An audit, or what it is to read, cannot be read, written or resumed."""


def suggest(asked: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return "; did you mean ...?" for the closest known names, or an empty string."""
    close = get_close_matches(asked, list(known), n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
