"""The engine: many requests at once, batched by one native thread.

Submit, poll and cancel never block; generate() waits for its own request only. Never knows about
HTTP, gevent or chat.
"""

from .engine import Engine
from .events import Event, FinishReason
from .generation import Generation
from .statistics import CacheStats, EngineStats

__all__ = ["CacheStats", "Engine", "EngineStats", "Event", "FinishReason", "Generation"]
