"""What requests have set, beside what the configuration says: defaults and a tuned state
(/update-config), another model (/switch-model), and deploy mode. It holds for every model to come,
and for the worker that takes over (`web/process/inherited_settings.py`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from web.config import Config
from web.engine.model_loading import Choice
from web.engine.requests import CONFIGURABLE, SamplingOptions
from web.process import inherited_settings

log = logging.getLogger("gunicorn.error")


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it at one time."""

    defaults: SamplingOptions = field(default_factory=SamplingOptions)
    state: str | None = None  # the path of a tuned state
    deploy: bool = False
    switched: bool = False  # to `choice`, a model or none: it is not the configured one
    choice: Choice | None = None


class SettingsStore:
    """`now` is replaced as a whole; who has decided by an older value can tell."""

    def __init__(self, config: Config) -> None:
        self.now = _configured(config)

    def change(self, **values: Any) -> None:
        """Sets fields of Settings, also for a worker to come."""
        self.now = replace(self.now, **values)
        inherited_settings.leave(msgspec.json.encode(self.now))

    def take_over(self) -> bool:
        """Sets what the last worker has left, if there was one."""
        content = inherited_settings.left()
        if content is None:
            return False
        try:
            left = msgspec.json.decode(content, type=Settings)
        except msgspec.MsgspecError as problem:  # of another version: the reload brought new code
            log.warning("what the last worker was told is lost: %s", problem)
            return False
        self.now = replace(left, deploy=left.deploy or self.now.deploy)
        return True


def _configured(config: Config) -> Settings:
    given = {name: getattr(config, name) for name in _SETTINGS}
    if given["top_k"] == -1:  # off, as requests say it
        given["top_k"] = 0
    return Settings(SamplingOptions(**given), config.state, config.deploy)


# Those fields of requests that are settings, too, with the same ranges. A length is not: the
# setting of that name is what the server gives at most.
_SETTINGS = [
    name
    for name in CONFIGURABLE
    if name in Config.__dataclass_fields__ and name not in ("state", "max_tokens")
]
