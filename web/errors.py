"""What is wrong with a request, or with the server: all errors of `web`, without HTTP.

A Refusal says what is wrong, with which field, and of which kind that is. The edge gives a kind its
status (`web/transport/error_answers.py`), a dialect the body its shape
(`web/dialects/openai_errors.py`), and a command prints it in its own names for fields. Never shows
a traceback or a path of the server.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from rwkv_native.printable import printable


class Kind(Enum):
    """What a client can do about it."""

    INVALID = auto()  # send something else
    NO_KEY = auto()
    FORBIDDEN = auto()
    NOT_FOUND = auto()
    NO_METHOD = auto()
    TOO_SLOW = auto()
    TOO_LARGE = auto()
    BAD_ENCODING = auto()
    BUSY = auto()  # come again: others are first
    FAULT = auto()  # nothing: it is ours
    NOT_INSTALLED = auto()  # ask whoever runs the server
    UNAVAILABLE = auto()  # come again: the server is not ready


class Refusal(Exception):
    """A request that gets an error answer.

    `param` is the field that is wrong. `joint` stands between its name and the problem; without one
    the problem says it all. `detail` is what RWKV Runner's clients search: the message, unless it
    has other words. `allow` are the methods of a path, `retry_after` is in seconds.
    """

    def __init__(
        self,
        kind: Kind,
        problem: str,
        *,
        param: str | None = None,
        joint: str | None = None,
        code: str | None = None,
        detail: Any = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
        self.param = param
        self.joint = joint
        self.code = code
        self.detail = self.message if detail is None else detail
        self.retry_after = retry_after
        self.allow = allow

    @property
    def message(self) -> str:
        return self.named(self.param)

    def named(self, param: str | None) -> str:
        """The message to somebody who knows the field by another name."""
        return self.problem if self.joint is None else f"{param}{self.joint}{self.problem}"

    def __str__(self) -> str:
        return self.message


def clip(value: Any) -> str:
    """A value of the client's, as an error may repeat it."""
    return printable(value, 80)


class ClientGone(Exception):
    """The client hung up; nobody will read an answer."""


def invalid(param: str, problem: str) -> Refusal:
    """400: a field is wrong. The message begins with the field's name."""
    return Refusal(Kind.INVALID, problem, param=param, joint=" ", code="invalid_value")


def unsupported(param: str, what: str = "is not supported") -> Refusal:
    """400: a field asks for something that would change the answer and cannot be given."""
    return Refusal(Kind.INVALID, what, param=param, joint=" ", code="unsupported_value")


def unread(param: str, what: str, one: str) -> Refusal:
    """400 in words that a chat window can show: every later message holds the same part again."""
    return Refusal(
        Kind.INVALID,
        f"this model reads no {what}: remove {one}, or begin a new chat",
        param=param,
        code="unsupported_value",
    )


def bad_output(param: str, folder: str) -> Refusal:
    """400 in RWKV Runner's words for a file that a request may not write."""
    return Refusal(
        Kind.INVALID,
        f"must name a file in the workspace's folder {folder}",
        param=param,
        joint=" ",
        code="invalid_value",
        detail="bad output path",
    )


def malformed(problem: str, known: bool = True) -> Refusal:
    """Of bytes that are no HTTP request, or are one that the server does not know."""
    kind = Kind.INVALID if known else Kind.NOT_INSTALLED
    return Refusal(kind, f"the request is malformed: {clip(problem)}", code="malformed_request")


def unreadable(param: str, problem: str, detail: str | None = None) -> Refusal:
    """400: a file that somebody sends or names is none of its kind. `detail` in RWKV Runner's words
    where it has some."""
    return Refusal(
        Kind.INVALID,
        problem,
        param=param,
        joint=": ",
        code="unreadable_file",
        detail=detail or problem,
    )


def not_installed(what: str) -> Refusal:
    """501: whoever runs the server can mend it."""
    return Refusal(Kind.NOT_INSTALLED, what, code="not_installed")


def internal() -> Refusal:
    """500: nobody expected it, and the log has the rest."""
    return Refusal(Kind.FAULT, "Internal Server Error")


def bad_json(problem: str) -> Refusal:
    return Refusal(
        Kind.INVALID, f"the request body is not valid JSON: {problem}", code="invalid_json"
    )


def body_too_large(limit: int) -> Refusal:
    return Refusal(
        Kind.TOO_LARGE, f"the request body is larger than {limit} bytes", code="body_too_large"
    )


def no_room() -> Refusal:
    """503 for a large body beside too many others."""
    return Refusal(
        Kind.UNAVAILABLE,
        "too many large request bodies at once; try again later",
        code="bodies_full",
        retry_after=5,
    )


def model_not_loaded() -> Refusal:
    """400, as RWKV Runner answers: its clients look for these words."""
    return Refusal(Kind.INVALID, "model not loaded", code="model_not_loaded")


def no_state_cache() -> Refusal:
    """400 of a reset while it is off, in RWKV Runner's words."""
    return Refusal(Kind.INVALID, "trie not loaded", code="state_cache_disabled")


def model_loading() -> Refusal:
    """503: OpenAI clients then try again by themselves."""
    return Refusal(
        Kind.UNAVAILABLE, "model not loaded: loading", code="model_loading", retry_after=2
    )


def no_model() -> Refusal:
    """503 of /health: nothing is served, and nothing is being loaded."""
    return Refusal(Kind.UNAVAILABLE, "no model is served", code="model_not_loaded")


def no_route(method: str, path: str, instead: str) -> Refusal:
    """404 with the `detail` that RWKV Runner gives."""
    message = f"no {clip(method)} {clip(path)} here: {instead}"
    return Refusal(Kind.NOT_FOUND, message, code="unknown_url", detail="Not Found")


def no_method(method: str, path: str, allow: str) -> Refusal:
    """405, the same; `allow` are the methods that there are."""
    return Refusal(
        Kind.NO_METHOD,
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
        Kind.NOT_FOUND,
        message,
        param="model",
        code="model_not_found",
        detail={"error": {"message": message, **kind}},
    )


def no_messages() -> Refusal:
    """400 in RWKV Runner's words."""
    return Refusal(Kind.INVALID, "messages not found", param="messages", code="invalid_value")


def no_input() -> Refusal:
    """400 in RWKV Runner's words."""
    return Refusal(Kind.INVALID, "input not found", param="input", code="invalid_value")


def foreign_ids() -> Refusal:
    """400: LangChain sends ids of OpenAI's vocabulary by default. In that of a World model nearly
    all of them are other words, and nobody would see that the vectors are of those."""
    return Refusal(
        Kind.INVALID,
        "input must be text: token ids of another vocabulary mean other words here. LangChain "
        "sends text with check_embedding_ctx_length=False; --embed-token-ids accepts ids of the "
        "served model",
        param="input",
        code="invalid_value",
    )


def no_chat(family: str) -> Refusal:
    """400: nothing that a client sends makes a music model talk."""
    return Refusal(
        Kind.INVALID,
        f"the loaded model makes music ({family}) and cannot chat: use /v1/completions",
        param="model",
        code="model_cannot_chat",
    )


def forbidden(param: str | None = None) -> Refusal:
    """403 in deploy mode, as RWKV Runner answers."""
    message = "this server is in deploy mode: requests cannot change it or name its files"
    return Refusal(Kind.FORBIDDEN, message, param=param, code="deploy_mode", detail="Forbidden")


def no_key() -> Refusal:
    """401 with OpenAI's first words, by which LiteLLM knows it from other errors."""
    return Refusal(
        Kind.NO_KEY,
        "Incorrect API key provided, or none: send `Authorization: Bearer KEY`",
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
        Kind.FORBIDDEN,
        f"{said} may not use this server; {more}",
        code="origin_not_allowed",
    )


def wrong_host(host: str) -> Refusal:
    """403 for what comes under a name that a foreign site may have given to this server."""
    return Refusal(
        Kind.FORBIDDEN,
        f"this server does not answer as {clip(host)}; its --public-name allows more names",
        code="host_not_allowed",
    )


def prompt_too_long(param: str, tokens: int, most: int) -> Refusal:
    """400 with OpenAI's code: clients then shorten their conversation."""
    return Refusal(
        Kind.INVALID,
        f"is too long: {tokens} tokens, limit {most}",
        param=param,
        joint=" ",
        code="context_length_exceeded",
    )


def of_tools(refusal: Refusal, tokens: int) -> Refusal:
    """The same, and how many of the tokens are the tools'."""
    return Refusal(
        refusal.kind,
        f"{refusal.problem}: {tokens} of them describe the tools",
        param=refusal.param,
        joint=refusal.joint,
        code=refusal.code,
    )


def queue_full() -> Refusal:
    return Refusal(
        Kind.BUSY,
        "the queue is full; try again later",
        code="queue_full",
        retry_after=1,
    )


def stopping() -> Refusal:
    return Refusal(
        Kind.UNAVAILABLE,
        "the server is stopping, or its model is being replaced",
        code="server_stopping",
        retry_after=5,
    )


def engine_failed() -> Refusal:
    """503: this worker ends, and another one starts."""
    return Refusal(
        Kind.UNAVAILABLE,
        "the engine has failed and is being restarted",
        code="engine_failed",
        retry_after=5,
    )


def not_built(file: str) -> Refusal:
    """501: a page without its library, which is fetched when the package is built."""
    return Refusal(
        Kind.NOT_INSTALLED,
        f"this page needs {file}, which could not be fetched when this server was built: build it "
        "again with npm, or pip, and access to a registry",
        code="not_built",
    )


def load_failed(message: str, detail: str, param: str | None) -> Refusal:
    """400 where another request could succeed, and else 500; `detail` has the words in which
    RWKV Runner's clients search for a cause."""
    return Refusal(
        Kind.FAULT if param is None else Kind.INVALID,
        f"failed to load: {message}",
        param=param,
        code="load_failed",
        detail=f"failed to load: {detail}",
    )


def state_gone() -> Refusal:
    """400: a state is what it was named for, or it is not used."""
    return Refusal(
        Kind.INVALID,
        "state file has changed since the request began",
        param="state",
        code="invalid_value",
    )


def generation_failed(problem: str | None) -> Refusal:
    text = f"generation failed: {problem}" if problem else "generation failed"
    return Refusal(Kind.FAULT, text, code="generation_failed")
