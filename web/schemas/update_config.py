"""POST /update-config: the request as one value. Called by `resources/runner/update_config.py`."""

from __future__ import annotations

import msgspec

from web import errors
from web.engine.requests import CONFIGURABLE, SamplingOptions
from web.schemas.fields import Fields
from web.schemas.sampling import defaults_of


class Update(msgspec.Struct, frozen=True, kw_only=True):
    given: SamplingOptions  # None: not named, or taken back
    taken_back: frozenset[str]  # fields that are null: the model's own values hold again


def update_of(fields: Fields) -> Update:
    """Reads the request; every error names its field. Elsewhere fields that nobody knows are
    ignored, but who misspells one here has no other sign that nothing was set."""
    given = defaults_of(fields)
    named = dict(fields.pairs())
    for name in named:
        if name not in CONFIGURABLE:
            raise errors.invalid(
                errors.clip(name),
                f"is not a field of /update-config; these are: {', '.join(CONFIGURABLE)}",
            )
    return Update(
        given=given,
        # Also a length of -1, which is none.
        taken_back=frozenset(name for name in named if getattr(given, name) is None),
    )
