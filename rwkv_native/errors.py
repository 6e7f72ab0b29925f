"""What can go wrong, as exceptions: each is an rn.Error and also the built-in kind that fits.

`except ValueError` and `except rn.Error` both work, so callers need not know this package. Raised
by every module here; the mapping from the C status codes is in _ffi.py.
"""


class Error(Exception):
    """The root of every exception that this package raises on purpose."""


class InvalidError(Error, ValueError):
    """An argument is wrong; the message names it."""


class CheckpointError(Error, ValueError):
    """A file is damaged, hostile or not a checkpoint; the message names the file and the reason."""


class UnsupportedError(Error, ValueError):
    """The request is right, but not for this build or machine; the message names an alternative."""


class FileError(Error, OSError):
    """A file cannot be opened or mapped."""


class MissingFileError(Error, FileNotFoundError):
    """There is no such file."""


class OutOfMemoryError(Error, MemoryError):
    """The machine has too little memory for this."""


class QueueFull(Error):
    """As many requests wait as the engine takes: try later."""


class Stopped(Error, RuntimeError):
    """The engine has been closed, or the load cancelled."""


class InternalError(Error, RuntimeError):
    """A fault of the engine itself, worth a report."""
