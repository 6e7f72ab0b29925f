"""What an engine counts: EngineStats, CacheStats, and their translation from C.

Called by engine.py, which has the handle.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from .._ffi import check, ffi, lib


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Requests now (waiting, prefilling, running) and counts since the engine was made."""

    waiting: int
    prefilling: int
    running: int
    submitted: int
    finished: int
    cancelled: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    guessed_tokens: int
    accepted_tokens: int
    forked: int = 0
    """States copied for further answers to a prompt."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What an engine keeps now (limit and size in bytes, states) and counts since it was made."""

    limit: int
    bytes: int
    entries: int
    hits: int
    """Requests that found a beginning of their prompt."""
    misses: int
    asked_tokens: int
    """Of the prompts of both."""
    cached_tokens: int
    """Of these: were not computed."""
    saved: int
    """States."""
    evicted: int
    reworded: int
    """Requests whose text went on where a state was kept, but in other tokens."""


def engine_stats(handle: Any) -> EngineStats:
    """The counts of a C engine at this moment."""
    out = ffi.new("rwkv_engine_stats *")
    out.size = ffi.sizeof("rwkv_engine_stats")
    check(lib.rwkv_engine_describe(out, handle))
    return EngineStats(**{name: getattr(out, name) for name in _ENGINE})


def cache_stats(handle: Any) -> CacheStats:
    """The same of what it keeps."""
    out = ffi.new("rwkv_cache_stats *")
    out.size = ffi.sizeof("rwkv_cache_stats")
    check(lib.rwkv_cache_describe(out, handle))
    return CacheStats(**{name: getattr(out, name) for name in _CACHE})


_ENGINE = tuple(f.name for f in fields(EngineStats))
_CACHE = tuple(f.name for f in fields(CacheStats))
