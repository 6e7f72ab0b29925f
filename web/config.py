"""What a server is told from outside: flags > `RWKV_NATIVE_*` environment > the defaults here.

Owns every setting, its type, range and default. Built once per process by `web.wsgi`, by
`web/gunicorn.conf.py` (master) and by the command line. Never opens a file, never changes.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

PREFIX = "RWKV_NATIVE_"
UNIX = "unix:"  # what a host that is a socket's path begins with

_ONE_REQUEST = 30  # seconds to send a header where connections are not kept

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})

# Settings that are lists -> what separates their values in the environment.
_SEPARATORS = {"model_dir": os.pathsep, "api_key": ",", "cors_origin": ",", "public_name": ","}

# Setting -> smallest and largest value; those of the engine are its own.
_RANGES = {
    "port": (0, 65535),
    "backlog": (1, 65535),
    "timeout_keep_alive": (0, 86400),
    "send_timeout": (1, 86400),
    "worker_connections": (1, 1_000_000),
    "threads": (0, 1024),
    "max_batch": (1, 4096),
    "prefill_chunk": (1, 16384),
    "max_queue": (1, 1_000_000),
    "queue_mb": (1, 1 << 20),
    "step_ms": (1, 60_000),
    "adapter_alpha": (0, 1_000_000),
    "speculate": (0, 64),
    "cache_mb": (-1, 1 << 40),
    "max_body": (1024, 1 << 40),
    "body_memory": (2048, 1 << 50),
    "max_prompt_tokens": (1, 1 << 31),
    "max_tokens": (1, 102400),
    "default_max_tokens": (1, 102400),
    "temperature": (0, 3),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "penalty_decay": (0, 1),
    "file_pages": (1, 1_000_000),
    "file_seconds": (1, 3600),
    "file_memory": (128 << 20, 1 << 40),
    "file_text": (1024, 1 << 40),
    "sound_length": (1, 20_000),  # a WAV has at most 4 GB
    "sound_seconds": (1, 3600),
    "sound_memory": (256 << 20, 1 << 40),
}


# Setting -> the words that it may be.
_CHOICES = {
    "state_type": ("fp32", "fp16", "bf16"),
    "prompt_format": ("official", "runner"),
}


_NAME = re.compile(r"[\w.-]+")  # of a host: no scheme, no port
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@]+/?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one server. ValueError names the setting and what it may be."""

    host: str = "127.0.0.1"  # or unix:PATH
    port: int = 8000
    backlog: int = 2048
    timeout_keep_alive: int = 120  # seconds an idle connection stays open; 0: one request each
    send_timeout: float = 60  # seconds in which a client must take some of its answer
    worker_connections: int = 4096  # connections at one time, streams included
    access_log: bool = True
    log_prompts: bool = False  # write the bodies of requests to the access log
    model: str | None = None  # path; None: the demo model; "none": serve without a model
    strategy: str = "auto"
    tokenizer: str | None = None  # name or path; None: the one that the model asks for
    adapter: str | None = None  # path of what is merged into the configured model
    adapter_alpha: float = 0  # of a LoRA whose file does not tell it; 0: it does, or has none
    adapter_init: str | None = None  # path of a PiSSA's first values
    state_type: str = "fp32"  # how states keep the matrices of versions 5 to 7
    threads: int = 0  # 0: the least of physical cores, affinity and CPU quota
    max_batch: int = 64
    prefill_chunk: int = 256
    max_queue: int = 4096  # requests that wait, however many texts they hold
    queue_mb: int = 512  # MiB that requests at work and waiting may hold
    step_ms: float = 20  # that a step may last beside running answers
    speculate: int = 0  # tokens to guess ahead at most; 0: none
    cache_mb: int = -1  # MiB for states of earlier texts; 0: none, -1: a quarter of what is free
    max_body: int = 32 << 20  # bytes of one request body
    body_memory: int = 256 << 20  # bytes of all bodies at one time; half of it for one client
    max_prompt_tokens: int = 1 << 20
    max_tokens: int = 102400  # of one answer; what asks for more is cut down
    default_max_tokens: int = 4096  # of a chat that does not say
    prompt_format: str = "official"  # of chats; "runner": messages as they are, as RWKV Runner 1.9
    # What requests do not say; None: the default of the model's family.
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_decay: float | None = None
    state: str | None = None  # file of a tuned state where answers start; None: the zero state
    file_pages: int = 2000  # of one document that /file-to-text reads
    file_seconds: int = 30
    file_memory: int = 1 << 30  # bytes of the process that reads it
    file_text: int = 64 << 20  # bytes of its text, as JSON
    sound_length: int = 1200  # seconds of sound that one piece of music may last
    sound_seconds: int = 60  # to render it
    sound_memory: int = 1 << 30  # bytes of the process that renders it
    embed_token_ids: bool = False  # take ids in /embeddings: those of the served model
    runner_models: bool = False  # list two names of OpenAI's beside the model, as RWKV Runner does
    deploy: bool = False  # refuse requests that change the server or touch its files
    insecure: bool = False  # listen on the network with neither keys nor deploy mode
    workspace: str = "."  # the folder whose files requests may name
    model_dir: tuple[str, ...] = ()  # more such folders
    api_key: tuple[str, ...] = field(default=(), repr=False)  # empty: none is asked for
    public_name: tuple[str, ...] = ()  # names in the public DNS that the server answers to
    cors_origin: tuple[str, ...] = ()  # of pages that browsers may let use the server; "*": all

    def __post_init__(self) -> None:
        for name, separator in _SEPARATORS.items():
            for value in getattr(self, name):
                if not value.strip() or separator in value:
                    raise ValueError(f"{name} cannot be empty or hold {separator!r}: {value!r}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, not {value}")
        for name in self.public_name:
            if not _NAME.fullmatch(name):
                raise ValueError(f"public_name must be a name such as llm.example.com: {name!r}")
        for origin in self.cors_origin:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "cors_origin must be an origin such as https://chat.example.com, without a"
                    f" path, 'null' or '*': {origin!r}"
                )
        for name, words in _CHOICES.items():
            if (value := getattr(self, name)) not in words:
                raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, /, **overrides: Any
    ) -> Config:
        """Reads `RWKV_NATIVE_<SETTING>`; overrides (flags) win, and those that are None count
        as not given."""
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for one in fields(cls):
            text = environ.get(PREFIX + one.name.upper())
            if text is not None and text.strip() != "":
                given[one.name] = _parse(one, text.strip())
        unknown = overrides.keys() - {one.name for one in fields(cls)}
        if unknown:
            raise TypeError(f"unknown setting {', '.join(sorted(unknown))}")
        given.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**given)

    def to_environment(self) -> dict[str, str]:
        """The environment that makes `from_environment` return this Config again."""
        out = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None:
                if isinstance(value, tuple):
                    value = _SEPARATORS[one.name].join(value)
                text = str(int(value)) if isinstance(value, bool) else str(value)
                out[PREFIX + one.name.upper()] = text
        return out

    def gunicorn(self) -> dict[str, Any]:
        """The gunicorn settings that follow from this Config."""
        return {
            "bind": self._bind(),
            "backlog": self.backlog,
            # gunicorn's 0 would also take the limit from the wait for a request's header.
            "keepalive": self.timeout_keep_alive or _ONE_REQUEST,
            "worker_connections": self.worker_connections,
            "accesslog": "-" if self.access_log else None,
        }

    def _bind(self) -> str:
        if self.host.startswith(UNIX):
            return self.host
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"{host}:{self.port}"


def _parse(field: dataclasses.Field[Any], text: str) -> Any:
    """A setting out of the environment; the annotations are strings here."""
    name = PREFIX + field.name.upper()
    if field.name in _SEPARATORS:
        parts = text.split(_SEPARATORS[field.name])
        return tuple(part.strip() for part in parts if part.strip())
    kind = field.type.removesuffix(" | None")
    if kind == "int":
        try:
            return int(text)
        except ValueError:
            if field.name == "threads" and text.lower() == "auto":
                return 0
            raise ValueError(f"{name} must be an integer, not {text!r}") from None
    if kind == "float":
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{name} must be a number, not {text!r}") from None
    if kind == "bool":
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError(f"{name} must be true or false, not {text!r}")
    return text
