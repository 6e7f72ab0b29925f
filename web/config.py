"""What a server is told from outside: flags > `RWKV_NATIVE_*` environment > the defaults here.

Owns every setting: its name, type, default, range, unit and words. The flags of the commands
(`web/cli/flags.py`) and the table in docs/server.md are made of it. Built once per process by
`web.wsgi`, by `web/gunicorn.conf.py` (master) and by the command line. Never opens a file, never
changes.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any

PREFIX = "RWKV_NATIVE_"
UNIX = "unix:"  # what a host that is a socket's path begins with

# Groups of settings, as `rwkv-native serve --help` lists them.
MODEL = "model"
NETWORK = "network"
ACCESS = "access"
FILES = "files that requests may name"
REQUESTS = "defaults of requests (default: those of the model's family)"
ENGINE = "engine"
LIMITS = "limits"
COMPATIBILITY = "compatibility"

_ONE_REQUEST = 30  # seconds to send a header where connections are not kept

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})

_NAME = re.compile(r"[\w.-]+")  # of a host: no scheme, no port
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@]+/?", re.IGNORECASE)


class SettingError(ValueError):
    """A setting that cannot be. `name` is its field in Config, `problem` what is wrong."""

    def __init__(self, name: str, problem: str, said: str | None = None) -> None:
        super().__init__(f"{said or name} {problem}")
        self.name = name
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting may be, and the words for it."""

    group: str
    help: str
    unit: str | None = None
    """What stands for the value in a usage: what it counts, or what it is."""
    range: tuple[float, float] | None = None
    """The smallest and the largest value; the engine's own are the engine's."""
    choices: tuple[str, ...] = ()
    separator: str = ""
    """Of the values of a list, in the environment."""
    default: str | None = None
    """The default in words, where its value does not say it."""


def _setting(
    group: str, default: Any, help: str, unit: str | None = None, range: Any = None, /, **more: Any
) -> Any:
    secret = more.pop("secret", False)
    setting = Setting(group, help, unit, range, **more)
    return field(default=default, repr=not secret, metadata={"setting": setting})


_model, _network, _access, _files, _requests, _engine, _limits, _compatibility = (
    partial(_setting, group)
    for group in (MODEL, NETWORK, ACCESS, FILES, REQUESTS, ENGINE, LIMITS, COMPATIBILITY)
)


def setting_of(one: Field[Any]) -> Setting:
    return one.metadata["setting"]


def default_of(one: Field[Any]) -> str:
    """The default of a setting, in words; empty where its group says it."""
    setting = setting_of(one)
    if setting.default is not None or one.default is None:
        return setting.default or ""
    if isinstance(one.default, bool):
        return "yes" if one.default else "no"
    for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if setting.unit == "BYTES" and one.default % size == 0:
            return f"{one.default}, {one.default // size} {name}"
    return str(one.default)


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one server. SettingError names the setting and what it may be."""

    model: str | None = _model(
        None,
        ".pth, .safetensors, .st or .gguf file, or a folder; none: no model, for `serve`",
        "PATH",
        default="the demo model",
    )
    adapter: str | None = _model(
        None,
        "LoRA, DoRA, PiSSA, Bone or MiSS to merge into the weights: a file of RWKV-PEFT or a "
        "folder of peft",
        "PATH",
        default="none",
    )
    adapter_alpha: float = _model(
        0,
        "alpha of a LoRA whose file does not store it (RWKV-PEFT's --lora_alpha)",
        "ALPHA",
        (0, 1_000_000),
        default="the file's",
    )
    adapter_init: str | None = _model(
        None,
        "first values of a PiSSA (init_pissa.pth), which training subtracted from the weights",
        "PATH",
        default="none",
    )
    strategy: str = _model(
        "auto",
        "'cpu fp32', 'cpu bf16' or 'cpu fp16'; with i8 or i4 for quantised weights: 'cpu bf16i8' "
        "needs half the memory, 'cpu bf16i4' a third; auto: the file's own type",
        "WORDS",
    )
    state_type: str = _model(
        "fp32",
        "type of the states of versions 5 to 7: fp32, fp16 or bf16; 16 bits halve what "
        "conversations hold and move and cost a little accuracy, fp16 the least",
        "TYPE",
        choices=("fp32", "fp16", "bf16"),
    )
    tokenizer: str | None = _model(
        None,
        "world, world-bytes, abc, midi, midi-piano, or a .json or .txt file",
        "NAME",
        default="the model's own",
    )
    threads: int = _model(
        0,
        "CPU threads; auto: all physical cores that affinity and CPU quota allow",
        "N",
        (0, 1024),
        default="auto",
    )
    host: str = _network("127.0.0.1", "address to listen on, or unix:PATH", "ADDRESS")
    port: int = _network(8000, "TCP port; 0: any free one", "N", (0, 65535))
    backlog: int = _network(2048, "TCP listen backlog", "CONNECTIONS", (1, 65535))
    worker_connections: int = _network(
        4096, "maximum connections at one time, streams included", "CONNECTIONS", (1, 1_000_000)
    )
    timeout_keep_alive: int = _network(
        120, "how long an idle connection stays open; 0: one request each", "SECONDS", (0, 86400)
    )
    send_timeout: float = _network(
        60,
        "disconnect a client that has read nothing of its answer for so long",
        "SECONDS",
        (1, 86400),
    )
    access_log: bool = _network(True, "write a JSON line per request to standard output")
    log_prompts: bool = _network(
        False, "add the bodies of requests, prompts included, to the access log"
    )
    api_key: tuple[str, ...] = _access(
        (),
        "refuse requests without one of these keys; may be given several times; "
        "RWKV_NATIVE_API_KEY hides them from `ps`",
        "KEY",
        secret=True,
        separator=",",
        default="no key is needed",
    )
    deploy: bool = _access(False, "refuse requests that change the server or name its files")
    insecure: bool = _access(
        False,
        "listen on an address of the network with neither --api-key nor --deploy: whoever reaches"
        " it may load models, write into the workspace and end the server",
    )
    public_name: tuple[str, ...] = _access(
        (),
        "a public name, such as llm.example.com, by which clients without a key may reach the "
        "server; may be given several times",
        "NAME",
        separator=",",
        default="localhost, IP addresses and private names",
    )
    cors_origin: tuple[str, ...] = _access(
        (),
        "let web pages of this origin use the server, such as https://chat.example.com; '*': all;"
        " may be given several times",
        "URL",
        separator=",",
        default="pages of this machine",
    )
    workspace: str = _files(
        ".",
        "the folder whose files requests may read and write",
        "DIR",
        default="the current folder",
    )
    model_dir: tuple[str, ...] = _files(
        (),
        "another folder of models and states; may be given several times",
        "DIR",
        separator=os.pathsep,
        default="the folder of --model",
    )
    temperature: float | None = _requests(
        None, "randomness; 0: always the most likely token", "T", (0, 3)
    )
    top_p: float | None = _requests(
        None, "keep the most likely tokens up to this sum; 1: all", "P", (0, 1)
    )
    top_k: int | None = _requests(
        None, "keep this many of the most likely tokens; 0 or -1: all", "TOKENS", (-1, 2**31 - 1)
    )
    presence_penalty: float | None = _requests(
        None, "subtracted from the logits of tokens that have been drawn", "X", (-2, 2)
    )
    frequency_penalty: float | None = _requests(
        None, "the same, for each time that they have been drawn", "X", (-2, 2)
    )
    penalty_decay: float | None = _requests(
        None, "factor by which the counts for penalties shrink with every token", "X", (0, 1)
    )
    state: str | None = _requests(
        None, "file of a tuned state from which answers start", "PATH", default="none"
    )
    default_max_tokens: int = _requests(
        4096, "length limit of chats that set none; completions have 500", "TOKENS", (1, 102400)
    )
    max_batch: int = _engine(64, "maximum requests processed at once", "REQUESTS", (1, 4096))
    prefill_chunk: int = _engine(256, "maximum prompt tokens of one step", "TOKENS", (1, 16384))
    step_ms: float = _engine(
        20,
        "cap on how long running streams may be delayed by other requests' prompts",
        "MS",
        (1, 60_000),
    )
    speculate: int = _engine(
        0,
        "guess so many tokens ahead from the text so far and verify them: the same answers, "
        "sooner where text repeats itself; 0: off",
        "TOKENS",
        (0, 64),
    )
    cache_mb: int = _engine(
        -1,
        "size of the prefix cache, by which the next turn of a conversation costs its new tokens "
        "only; 0: none",
        "MIB",
        (-1, 1 << 40),
        default="a quarter of the free memory",
    )
    max_queue: int = _limits(
        4096,
        "requests that may wait, however many texts each holds; more get 429",
        "REQUESTS",
        (1, 1_000_000),
    )
    queue_mb: int = _limits(
        512, "memory limit for running and waiting requests; more get 429", "MIB", (1, 1 << 20)
    )
    max_prompt_tokens: int = _limits(1 << 20, "longest prompt", "TOKENS", (1, 1 << 31))
    max_tokens: int = _limits(
        102400, "longest answer; a request for more is cut down to it", "TOKENS", (1, 102400)
    )
    max_body: int = _limits(32 << 20, "largest body of a request", "BYTES", (1024, 1 << 40))
    body_memory: int = _limits(
        256 << 20,
        "memory of all bodies together, half of it for one client; more get 503",
        "BYTES",
        (2048, 1 << 50),
    )
    file_pages: int = _limits(
        2000, "largest document that /file-to-text reads", "PAGES", (1, 1_000_000)
    )
    file_seconds: int = _limits(30, "time limit for reading a document", "SECONDS", (1, 3600))
    file_memory: int = _limits(
        1 << 30, "memory limit for reading a document", "BYTES", (128 << 20, 1 << 40)
    )
    file_text: int = _limits(64 << 20, "longest text of a document", "BYTES", (1024, 1 << 40))
    sound_length: int = _limits(1200, "longest sound of one piece of music", "SECONDS", (1, 20_000))
    sound_seconds: int = _limits(
        60, "time limit for rendering a piece of music", "SECONDS", (1, 3600)
    )
    sound_memory: int = _limits(
        1 << 30, "memory limit for rendering a piece of music", "BYTES", (256 << 20, 1 << 40)
    )
    prompt_format: str = _compatibility(
        "official",
        "format of chat prompts: official, on which the models were trained, or runner: messages "
        "unchanged, as RWKV Runner 1.9 does",
        "FORMAT",
        choices=("official", "runner"),
    )
    embed_token_ids: bool = _compatibility(
        False,
        "accept token ids of the served model in /v1/embeddings; clients made for OpenAI's models"
        " send those of another vocabulary",
    )
    runner_models: bool = _compatibility(
        False,
        "list gpt-3.5-turbo and text-davinci-003 in /v1/models, as RWKV Runner does, for clients "
        "that insist on such a name",
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one, getattr(self, one.name))
        for name in self.public_name:
            if not _NAME.fullmatch(name):
                raise SettingError(
                    "public_name", f"must be a name such as llm.example.com: {name!r}"
                )
        for origin in self.cors_origin:
            if not _ORIGIN.fullmatch(origin):
                raise SettingError(
                    "cors_origin",
                    "must be an origin such as https://chat.example.com, without a path, 'null' or"
                    f" '*': {origin!r}",
                )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, /, **flags: Any) -> Config:
        """Reads `RWKV_NATIVE_<SETTING>`. Flags win; those that are None were not given.
        SettingError names the flag or the variable that is wrong."""
        environ = os.environ if environ is None else environ
        known = {one.name: one for one in fields(cls)}
        _refuse_misspelt(environ, [variable(name) for name in known])
        given: dict[str, Any] = {}
        for name, one in known.items():
            text = environ.get(variable(name), "").strip()
            if text:
                try:
                    given[name] = parse(one, text)
                except ValueError as problem:
                    raise SettingError(name, str(problem), variable(name)) from None
        if unknown := flags.keys() - known:
            raise TypeError(f"unknown setting {', '.join(sorted(unknown))}")
        flags = {name: value for name, value in flags.items() if value is not None}
        given.update(flags)
        try:
            return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})
        except SettingError as wrong:
            said = flag(wrong.name) if wrong.name in flags else variable(wrong.name)
            raise SettingError(wrong.name, wrong.problem, said) from None

    def to_environment(self) -> dict[str, str]:
        """The environment that makes `from_environment` return this Config again."""
        out = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None:
                if isinstance(value, tuple):
                    value = setting_of(one).separator.join(value)
                out[variable(one.name)] = str(int(value) if isinstance(value, bool) else value)
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


def _refuse_misspelt(environ: Mapping[str, str], known: Sequence[str]) -> None:
    """A variable that is nearly a setting is one that its owner believes to be set. Others of the
    prefix may be anybody's: Kubernetes makes some of a service's name."""
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            for near in difflib.get_close_matches(name, known, n=1, cutoff=0.9):
                raise SettingError(name, f"is no setting; did you mean {near}?")


def _check(one: Field[Any], value: Any) -> None:
    setting = setting_of(one)
    if setting.separator:
        for text in value:
            if not text.strip() or setting.separator in text:
                raise SettingError(
                    one.name, f"cannot be empty or hold {setting.separator!r}: {text!r}"
                )
    if setting.range is not None and value is not None:
        low, high = setting.range
        if not low <= value <= high:
            raise SettingError(one.name, f"must be between {low} and {high}, not {value}")
    if setting.choices and value not in setting.choices:
        raise SettingError(one.name, f"must be one of {', '.join(setting.choices)}, not {value!r}")


def kind_of(one: Field[Any]) -> str:
    """int, float, bool or str, also of what may be unset, and of the values of a list. The
    annotations are strings here."""
    return "str" if setting_of(one).separator else one.type.removesuffix(" | None")


def parse(one: Field[Any], text: str) -> Any:
    """A setting out of a flag or the environment. ValueError says what it must be."""
    separator, kind = setting_of(one).separator, kind_of(one)
    if separator:
        return tuple(part.strip() for part in text.split(separator) if part.strip())
    if one.name == "threads" and text.lower() == "auto":
        return 0
    if kind == "bool":
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError(f"must be true or false, not {text!r}")
        return text.lower() in _TRUE
    try:
        return {"int": int, "float": float, "str": str}[kind](text)
    except ValueError:
        wanted = "an integer" if kind == "int" else "a number"
        raise ValueError(f"must be {wanted}, not {text!r}") from None
