"""GET /models and /models/{id}: the loaded model and what it can do, and, with `--runner-models`,
two names that old clients insist on. Requests are answered whatever model they name.
"""

from __future__ import annotations

import falcon
import msgspec
from msgspec import UNSET

from web import errors
from web.config import Config
from web.engine.model_host import Runtime
from web.schemas.answers import Capabilities, Model, Models, Permission


def _stand_in(id: str, created: int, owner: str, permission: str, granted: int) -> Model:
    """An entry that RWKV Runner lists so that clients with a fixed model name start."""
    granted_to_all = Permission(id=permission, created=granted)
    return Model(id=id, created=created, owned_by=owner, permission=[granted_to_all], root=id)


_STAND_INS = {
    entry.id: entry
    for entry in (
        _stand_in(
            "gpt-3.5-turbo", 1677610602, "openai", "modelperm-zy5TOjnE2zVaicIcKO9bQDgX", 1690864883
        ),
        _stand_in(
            "text-davinci-003",
            1669599635,
            "openai-internal",
            "modelperm-a6niqBmW2JaGmo0fDO7FEt1n",
            1690930172,
        ),
    )
}


def _entry(runtime: Runtime) -> Model:
    name = runtime.model_name or "rwkv"
    entry = Model(id=name, created=runtime.created, owned_by="rwkv", root=name)
    if runtime.model is None:
        return entry
    chats, length = runtime.model.persona.chats, runtime.context_length or UNSET
    return msgspec.structs.replace(
        entry,
        context_length=length,
        context_window=length,
        max_model_len=length,
        capabilities=Capabilities(completion_chat=chats, function_calling=chats),
    )


class ModelsResource:
    """The list: what is loaded, if anything is. RWKV Runner lists its two names always, and a model
    "rwkv" where none is loaded."""

    def __init__(self, runtime: Runtime, config: Config) -> None:
        self._runtime = runtime
        self._as_runner = config.runner_models

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        entries = [_entry(self._runtime)] if self._as_runner or self._runtime.model else []
        if self._as_runner:
            entries += _STAND_INS.values()
        resp.data = msgspec.json.encode(Models(data=entries))


class ModelResource:
    """One model: the loaded one by its name, or by any name with "rwkv" in it; and the two names,
    listed or not."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response, model_id: str) -> None:
        if model_id == self._runtime.model_name or "rwkv" in model_id.lower():
            entry = _entry(self._runtime)
        elif model_id in _STAND_INS:
            entry = _STAND_INS[model_id]
        else:
            raise errors.model_not_found(model_id)
        resp.data = msgspec.json.encode(entry)
