"""The engine: many requests at once, batched by one native thread.

Submit, poll and cancel never block; generate() waits for its own request only. Never knows about
HTTP, gevent or chat.
"""

from .engine import CacheStats, Engine, EngineStats, Event, FinishReason, Generation

__all__ = ["CacheStats", "Engine", "EngineStats", "Event", "FinishReason", "Generation"]
