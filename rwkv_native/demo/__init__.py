"""The small model that this package carries, so that a first run needs no download."""

from pathlib import Path

from ..errors import MissingFileError


def demo_model() -> Path:
    """The path of the demo model. Raises FileNotFoundError where it is not installed."""
    path = Path(__file__).resolve().with_name("demo.safetensors")
    if not path.is_file():
        raise MissingFileError(f"{path}: the demo model is not part of this installation")
    return path
