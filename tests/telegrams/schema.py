"""POST /telegrams: the request as one value."""

from __future__ import annotations

import msgspec

from web.chat.messages import Conversation, Message
from web.engine.requests import SamplingOptions
from web.schemas.fields import Fields


class Telegram(msgspec.Struct, frozen=True):
    conversation: Conversation
    sampling: SamplingOptions
    live: bool  # words are sent as they come


def telegram(fields: Fields) -> Telegram:
    """Reads the request; every error names its field."""
    wire = fields.text("wire", shortest=1)
    if wire is None:
        raise fields.wrong("wire", "is required")
    longest = fields.integer("longest", 1, 100)
    return Telegram(
        Conversation(messages=[Message("user", wire)]),
        SamplingOptions(max_tokens=longest, temperature=0.0),
        bool(fields.boolean("live")),
    )
