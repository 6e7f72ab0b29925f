"""Every error answer of the server, in one shape that suits both kinds of client:
`{"error": {"message", "type", "param", "code"}, "detail": ...}`: OpenAI's object, and the `detail`
that RWKV Runner's clients search. Raised by everything in `web`; installed by `web/app.py`.
Never shows a traceback or a path of the server.
"""

from __future__ import annotations

import logging
from typing import Any

import falcon
import msgspec

from rwkv_native.printable import printable

log = logging.getLogger("gunicorn.error")

# Status -> (OpenAI error type, `detail` where the router, not a handler, refused).
_TYPES = {
    404: ("invalid_request_error", "Not Found"),
    405: ("invalid_request_error", "Method Not Allowed"),
    429: ("rate_limit_error", "Too Many Requests"),
}


class Refusal(falcon.HTTPError):
    """A request that gets an error answer."""

    def __init__(
        self,
        status: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        detail: Any = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        if allow is not None:
            headers["allow"] = allow
        super().__init__(status, title=message, headers=headers)
        self.message = message
        self.param = param
        self.error_code = code
        self.detail = message if detail is None else detail

    def __str__(self) -> str:
        return self.message


def clip(value: Any) -> str:
    """A value of the client's, as an error may repeat it."""
    return printable(value, 80)


class ClientGone(Exception):
    """The client hung up; nobody will read an answer."""


def invalid(param: str, problem: str) -> Refusal:
    """400: a field is wrong. The message begins with the field's name."""
    return Refusal(falcon.HTTP_400, f"{param} {problem}", param=param, code="invalid_value")


def unsupported(param: str, what: str = "is not supported") -> Refusal:
    """400: a field asks for something that would change the answer and cannot be given."""
    return Refusal(falcon.HTTP_400, f"{param} {what}", param=param, code="unsupported_value")


def unread(param: str, what: str, one: str) -> Refusal:
    """400 in words that a chat window can show: every later message holds the same part again."""
    return Refusal(
        falcon.HTTP_400,
        f"this model reads no {what}: remove {one}, or begin a new chat",
        param=param,
        code="unsupported_value",
    )


def bad_output(param: str, folder: str) -> Refusal:
    """400 in RWKV Runner's words for a file that a request may not write."""
    return Refusal(
        falcon.HTTP_400,
        f"{param} must name a file in the workspace's folder {folder}",
        param=param,
        code="invalid_value",
        detail="bad output path",
    )


def malformed(problem: str) -> str:
    """What bytes that are no HTTP request are told."""
    return f"the request is malformed: {clip(problem)}"


def bad_json(problem: str) -> Refusal:
    return Refusal(
        falcon.HTTP_400, f"the request body is not valid JSON: {problem}", code="invalid_json"
    )


def body_too_large(limit: int) -> Refusal:
    return Refusal(
        falcon.HTTP_413, f"the request body is larger than {limit} bytes", code="body_too_large"
    )


def no_room() -> Refusal:
    """503 for a large body beside too many others."""
    return Refusal(
        falcon.HTTP_503,
        "the server holds as many large request bodies as it has memory for; try again later",
        code="bodies_full",
        retry_after=5,
    )


def model_not_loaded() -> Refusal:
    """400, as RWKV Runner answers: its clients look for these words."""
    return Refusal(falcon.HTTP_400, "model not loaded", code="model_not_loaded")


def no_state_cache() -> Refusal:
    """400 of a reset while it is off, in RWKV Runner's words."""
    return Refusal(falcon.HTTP_400, "trie not loaded", code="state_cache_disabled")


def model_loading() -> Refusal:
    """503: OpenAI clients then try again by themselves."""
    return Refusal(
        falcon.HTTP_503, "model not loaded: loading", code="model_loading", retry_after=2
    )


def no_model() -> Refusal:
    """503 of /health: nothing is served, and nothing is being loaded."""
    return Refusal(falcon.HTTP_503, "no model is served", code="model_not_loaded")


def no_route(method: str, path: str, instead: str) -> Refusal:
    """404 with the `detail` that RWKV Runner gives."""
    message = f"no {clip(method)} {clip(path)} here: {instead}"
    return Refusal(falcon.HTTP_404, message, code="unknown_url", detail="Not Found")


def no_method(method: str, path: str, allow: str) -> Refusal:
    """405, the same; `allow` are the methods that there are."""
    return Refusal(
        falcon.HTTP_405,
        f"no {clip(method)} {clip(path)} here: it takes {allow}",
        code="method_not_allowed",
        detail="Method Not Allowed",
        allow=allow,
    )


def model_not_found(name: str) -> Refusal:
    """404 with RWKV Runner's `detail`, an error object inside."""
    message = f"The model '{clip(name)}' does not exist"
    kind = {"type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    return Refusal(
        falcon.HTTP_404,
        message,
        param="model",
        code="model_not_found",
        detail={"error": {"message": message, **kind}},
    )


def no_messages() -> Refusal:
    """400 in RWKV Runner's words."""
    return Refusal(falcon.HTTP_400, "messages not found", param="messages", code="invalid_value")


def no_input() -> Refusal:
    """400 in RWKV Runner's words."""
    return Refusal(falcon.HTTP_400, "input not found", param="input", code="invalid_value")


def foreign_ids() -> Refusal:
    """400: LangChain sends ids of OpenAI's vocabulary by default. In that of a World model nearly
    all of them are other words, and nobody would see that the vectors are of those."""
    return Refusal(
        falcon.HTTP_400,
        "input must be text: token ids of another vocabulary would be other words here. LangChain "
        "sends text with check_embedding_ctx_length=False; --embed-token-ids takes ids of the "
        "served model",
        param="input",
        code="invalid_value",
    )


def no_chat(family: str) -> Refusal:
    """400: nothing that a client sends makes a music model talk."""
    return Refusal(
        falcon.HTTP_400,
        f"the loaded model makes music ({family}) and cannot chat: use /v1/completions",
        param="model",
        code="model_cannot_chat",
    )


def forbidden(param: str | None = None) -> Refusal:
    """403 in deploy mode, as RWKV Runner answers."""
    message = "this server is in deploy mode: requests cannot change it or name its files"
    return Refusal(falcon.HTTP_403, message, param=param, code="deploy_mode", detail="Forbidden")


def no_key() -> Refusal:
    """401 with OpenAI's first words, by which LiteLLM knows it from other errors."""
    return Refusal(
        falcon.HTTP_401,
        "Incorrect API key provided, or none: this server wants `Authorization: Bearer KEY`",
        code="invalid_api_key",
    )


def wrong_origin(origin: str) -> Refusal:
    """403 for what a web page sends that may not."""
    if origin == "null":
        said = "a page without an address, such as a file opened in a browser (Origin: null),"
        more = "serve it from http://localhost, or start the server with --cors-origin null"
    else:
        said, more = f"pages of {clip(origin)}", "its --cors-origin allows more"
    return Refusal(
        falcon.HTTP_403,
        f"{said} may not use this server; {more}",
        code="origin_not_allowed",
    )


def wrong_host(host: str) -> Refusal:
    """403 for what comes under a name that a foreign site may have given to this server."""
    return Refusal(
        falcon.HTTP_403,
        f"this server does not answer as {clip(host)}; its --public-name allows more names",
        code="host_not_allowed",
    )


def prompt_too_long(param: str, tokens: int, most: int) -> Refusal:
    """400 with OpenAI's code: clients then shorten their conversation."""
    return Refusal(
        falcon.HTTP_400,
        f"{param} has {tokens} tokens, and this server takes at most {most}",
        param=param,
        code="context_length_exceeded",
    )


def of_tools(refusal: Refusal, tokens: int) -> Refusal:
    """The same, and how many of the tokens are the tools'."""
    return Refusal(
        falcon.HTTP_400,
        f"{refusal.message}: {tokens} of them are the tools",
        param=refusal.param,
        code=refusal.error_code,
    )


def queue_full() -> Refusal:
    return Refusal(
        falcon.HTTP_429,
        "the queue is full: as many requests wait as this server takes; try again later",
        code="queue_full",
        retry_after=1,
    )


def stopping() -> Refusal:
    return Refusal(
        falcon.HTTP_503,
        "the server is stopping, or its model is being replaced",
        code="server_stopping",
        retry_after=5,
    )


def engine_failed() -> Refusal:
    """503: this worker ends, and another one starts."""
    return Refusal(
        falcon.HTTP_503,
        "the engine has failed, and is started again",
        code="engine_failed",
        retry_after=5,
    )


def not_built(file: str) -> Refusal:
    """501: a page without its library, which is fetched when the package is built."""
    return Refusal(
        falcon.HTTP_501,
        f"this page needs {file}, which could not be fetched when this server was built: build it "
        "again where npm, or pip, and a registry can be reached",
        code="not_built",
    )


def load_failed(message: str, detail: str, param: str | None) -> Refusal:
    """400 where another request could succeed, and else 500; `detail` has the words in which
    RWKV Runner's clients search for a cause."""
    return Refusal(
        falcon.HTTP_500 if param is None else falcon.HTTP_400,
        f"failed to load: {message}",
        param=param,
        code="load_failed",
        detail=f"failed to load: {detail}",
    )


def generation_failed(problem: str | None) -> Refusal:
    text = f"generation failed: {problem}" if problem else "generation failed"
    return Refusal(falcon.HTTP_500, text, code="generation_failed")


def body_of(error: falcon.HTTPError) -> dict[str, Any]:
    """The JSON body of any error answer."""
    status = error.status_code
    kind, detail = _TYPES.get(status, (None, None))
    if kind is None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
    if isinstance(error, Refusal):
        message, param, code, detail = error.message, error.param, error.error_code, error.detail
    else:
        # falcon's own: a path that is no route, a method that a route lacks, a header it refuses.
        reason = str(falcon.code_to_http_status(error.status)).partition(" ")[2]
        message = error.description or detail or reason
        detail = detail or message
        param = code = None
    return {
        "error": {"message": message, "type": kind, "param": param, "code": code},
        "detail": detail,
    }


def serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """falcon's hook for every HTTPError."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body_of(error))
    resp.stream = None


def on_client_gone(
    req: falcon.Request, resp: falcon.Response, error: ClientGone, params: dict[str, Any]
) -> None:
    """nginx's code for it. Only the access log sees this answer."""
    resp.status = "499 Client Closed Request"
    resp.data = b""


def on_fault(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
) -> None:
    """Whatever nobody expected: the log gets the traceback, the client a plain 500."""
    log.error("%s %s failed", req.method, req.path, exc_info=error)
    resp.status = falcon.HTTP_500
    serialize(req, resp, Refusal(falcon.HTTP_500, "Internal Server Error"))
