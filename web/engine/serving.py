"""A loaded model with all that serves it. Made by `web/engine/model_host.py`, and replaced as a
whole: requests keep the one that they began with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

import rwkv_native as rn
from web.admission import Admission
from web.engine.client import EngineClient, StateRef
from web.engine.families import Lengths, Persona
from web.engine.known_answers import KnownAnswers
from web.transport.disconnects import Hangups


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost."""

    prompt_tokens: int
    lengths: Lengths = field(default_factory=Lengths)


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    name: str
    info: rn.ModelInfo
    created: int  # seconds since the epoch
    persona: Persona
    tokenizer: rn.Tokenizer
    engine: EngineClient
    hangups: Hangups
    limits: Limits
    admission: Admission
    window: int  # prompts that one request has in the engine at one time
    known: KnownAnswers
    start: StateRef | None = None  # where answers start; None: the zero state

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: another one where the same request and seed may have other
        answers, because model, types or version are others."""
        info = self.info
        parts = (rn.__version__, self.name, info.strategy, info.state_type, info.isa)
        return f"fp_{sha256('/'.join(parts).encode()).hexdigest()[:10]}"
