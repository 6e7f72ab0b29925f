"""POST /switch-model: the request as one value. Called by `resources/switch_model.py`."""

from __future__ import annotations

import msgspec

from web.paths import LONGEST
from web.schemas.fields import Fields

_LONGEST_STRATEGY = 1024


class SwitchRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None  # None: unload
    strategy: str
    tokenizer: str | None  # None: the one that the model asks for
    deploy: bool


def switch_request(fields: Fields) -> SwitchRequest:
    """Reads the request; every error names its field."""
    if not fields.has("model"):
        raise fields.wrong("model", "is required; null unloads the model")
    fields.boolean("customCuda")  # kernels of one's own: there is nothing to choose here
    return SwitchRequest(
        model=fields.text("model", longest=LONGEST) or None,
        strategy=fields.text("strategy", longest=_LONGEST_STRATEGY) or "auto",
        tokenizer=fields.text("tokenizer", longest=LONGEST) or None,
        deploy=bool(fields.boolean("deploy")),
    )
