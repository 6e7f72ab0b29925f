"""POST /tokenize: what a model is fed, as text and as token ids. POST /detokenize: the way back.
GET /tokenizer_info: which tokenizer it is.
"""

from __future__ import annotations

import falcon
import msgspec
import numpy as np

from web import errors
from web.chat.turn import Turns
from web.engine.generation import fed_text
from web.engine.model_host import Runtime
from web.engine.serving import Serving
from web.schemas import fields
from web.schemas.answers import TokenizerInfo
from web.schemas.tokenize import Text, Tokens, detokenize_request, tokenize_request
from web.threadpool import in_thread_if
from web.transport.request_body import read_body

_MOST_TOKENS = 1 << 20  # of one answer, or one request
_LONG = 50_000  # characters or ids above which a thread does the work


class TokenizeResource:
    """Takes `prompt`, or `messages` with the fields of a chat."""

    def __init__(self, runtime: Runtime, turns: Turns) -> None:
        self._runtime = runtime
        self._turns = turns

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), tokenize_request)
        serving = self._runtime.serving()
        if not isinstance(request, str):
            prompt, fed = self._turns.prompt(serving, request, req.context.caller.number)
            resp.data = _told(prompt.text, fed.ids, "messages")
            return
        text = fed_text(serving.persona, request)
        resp.data = in_thread_if(len(text) > _LONG, _tokenized, serving, text)

    def on_post_back(self, req: falcon.Request, resp: falcon.Response) -> None:
        ids = fields.read(read_body(req), lambda one: detokenize_request(one, _MOST_TOKENS))
        serving = self._runtime.serving()
        resp.data = in_thread_if(len(ids) > _LONG, _detokenized, serving, ids)


class TokenizerInfoResource:
    """What vLLM tells of its tokenizer."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        tokenizer = self._runtime.serving().tokenizer
        end = next(iter(tokenizer.end_ids), None)
        resp.data = msgspec.json.encode(
            TokenizerInfo(
                tokenizer_class=tokenizer.name,
                vocab_size=tokenizer.vocab_size,
                eos_token=None if end is None else tokenizer.decode([end]) or None,
                eos_token_id=end,
                model_max_length=self._runtime.context_length,
            )
        )


def _tokenized(serving: Serving, text: str) -> bytes:
    try:
        ids = serving.tokenizer.encode_array(text)
    except ValueError as problem:
        raise errors.invalid("prompt", f"cannot be encoded: {problem}") from None
    return _told(text, ids, "prompt")


def _told(text: str, ids: np.ndarray, field: str) -> bytes:
    if len(ids) > _MOST_TOKENS:
        raise errors.invalid(field, f"must be at most {_MOST_TOKENS} tokens, not {len(ids)}")
    return msgspec.json.encode(Tokens(text, ids.tolist(), len(ids)))


def _detokenized(serving: Serving, ids: list[int]) -> bytes:
    try:
        return msgspec.json.encode(Text(serving.tokenizer.decode(ids)))
    except ValueError as problem:
        raise errors.invalid("tokens", f"cannot be decoded: {problem}") from None
