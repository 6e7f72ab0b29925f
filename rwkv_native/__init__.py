"""Run RWKV models from Python: a binding to the engine in native/.

    import rwkv_native as rn

    model = rn.Model.open(rn.demo_model(), strategy="cpu fp32")
    with rn.Engine(model, rn.Tokenizer.for_model(model)) as engine:
        for event in engine.generate("User: Hi\n\nAssistant:", rn.Sampling(stop=["\n\nUser"])):
            print(event.text, end="", flush=True)

Every error that this package raises on purpose is an rn.Error and also the built-in kind that fits:
ValueError, FileNotFoundError, MemoryError.
"""

from . import _ffi
from .adapters import Adapter
from .demo import demo_model
from .engine import CacheStats, Engine, EngineStats, Event, Generation
from .errors import (
    CheckpointError,
    Error,
    FileError,
    InternalError,
    InvalidError,
    MissingFileError,
    OutOfMemoryError,
    QueueFull,
    Stopped,
    UnsupportedError,
)
from .model import Loading, Model
from .model_info import ModelInfo
from .sampling import PreparedSampling, Sampling, probabilities
from .state import State
from .tokenizers import Tokenizer

__all__ = [
    "Adapter",
    "CacheStats",
    "CheckpointError",
    "Engine",
    "EngineStats",
    "Error",
    "Event",
    "FileError",
    "Generation",
    "InternalError",
    "InvalidError",
    "Loading",
    "MissingFileError",
    "Model",
    "ModelInfo",
    "OutOfMemoryError",
    "PreparedSampling",
    "QueueFull",
    "Sampling",
    "State",
    "Stopped",
    "Tokenizer",
    "UnsupportedError",
    "cpu_isa",
    "demo_model",
    "probabilities",
]

__version__ = _ffi.text(_ffi.lib.rwkv_version())


def cpu_isa() -> str:
    """The instruction set of the CPU kernels: "baseline", "avx2", "avx512", ...

    Raises UnsupportedError if RWKV_CPU_ISA names one that this machine or build lacks.
    """
    name = _ffi.ffi.new("const char **")
    _ffi.check(_ffi.lib.rwkv_cpu_isa(name))
    return _ffi.text(name[0])
