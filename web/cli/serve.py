"""`rwkv-native serve`: gunicorn in this process, with the settings of `web/gunicorn.conf.py`.

Refuses before it listens what would fail later: a port in use, a file that is no checkpoint. A
BaseApplication, unlike the `gunicorn` command, neither changes folders nor touches sys.path.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from web.cli.terminal import (
    LoadLine,
    Refused,
    adapter_of,
    model_flags,
    model_path,
    sampling_flags,
    state_flag,
    tokenizer_named,
)
from web.config import UNIX, Config
from web.transport import exposure

SUMMARY = "serve a model over HTTP"
EPILOG = """\
Clients: OpenAI's with base URL http://HOST:PORT/v1 and any API key; RWKV Runner's with
http://HOST:PORT. Ctrl-C ends the server.

Each flag is also a variable, such as RWKV_NATIVE_MAX_BATCH=32. For production,
`gunicorn -c web/gunicorn.conf.py web.wsgi:app` reads the same variables.
"""

_SETTINGS = (
    *("model", "strategy", "state_type", "tokenizer", "threads", "host", "port", "backlog"),
    *("adapter", "adapter_alpha", "adapter_init"),
    *(
        "timeout_keep_alive",
        "access_log",
        "log_prompts",
        "deploy",
        "workspace",
        "model_dir",
        "api_key",
    ),
    *(
        "public_name",
        "insecure",
        "cors_origin",
        "max_batch",
        "prefill_chunk",
        "max_queue",
        "step_ms",
        "speculate",
    ),
    *("cache_mb", "max_prompt_tokens", "max_tokens", "default_max_tokens", "runner_models"),
    "embed_token_ids",
    "prompt_format",
)


# Of the flags of sampling: those that a server may set for its requests.
_DEFAULTS = (
    *("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "penalty_decay"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    model_flags(parser)
    server = parser.add_argument_group("server")
    server.add_argument("--host", help="address, or unix:PATH (default: 127.0.0.1)")
    server.add_argument("--port", type=int, help="0: any free one (default: 8000)")
    server.add_argument(
        "--backlog", type=int, metavar="N", help="TCP listen backlog (default: 2048)"
    )
    server.add_argument(
        "--timeout-keep-alive",
        type=int,
        metavar="S",
        help="seconds that an idle connection stays open (default: 120)",
    )
    server.add_argument(
        "--no-access-log",
        dest="access_log",
        action="store_false",
        default=None,
        help="disable the access log",
    )
    server.add_argument(
        "--log-prompts",
        action="store_true",
        default=None,
        help="write what clients send, their prompts included, to the access log",
    )
    server.add_argument("--webui", action="store_true", help=argparse.SUPPRESS)
    server.add_argument(
        "--deploy",
        action=argparse.BooleanOptionalAction,
        help="refuse requests that change the server (default: no)",
    )
    server.add_argument(
        "--api-key",
        metavar="KEY",
        action="append",
        help="answer only those who send one of the keys; RWKV_NATIVE_API_KEY hides them from `ps`",
    )
    server.add_argument(
        "--public-name",
        metavar="NAME",
        action="append",
        help="a name, such as llm.example.com, by which clients without a key may reach the server;"
        " may be given several times (default: localhost, IP addresses and private names)",
    )
    server.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen on an address of the network without --api-key and without --deploy: whoever"
        " reaches it may load models, write into the workspace and end the server",
    )
    server.add_argument(
        "--cors-origin",
        metavar="URL",
        action="append",
        help="let web pages of this origin use the server, such as https://chat.example.com; '*':"
        " all (default: pages of this machine)",
    )
    server.add_argument(
        "--runner-models",
        action="store_true",
        default=None,
        help="list gpt-3.5-turbo and text-davinci-003 in /v1/models, as RWKV Runner does, for"
        " clients that insist on such a name",
    )
    server.add_argument(
        "--embed-token-ids",
        action="store_true",
        default=None,
        help="take token ids of the served model in /v1/embeddings; clients that are made for"
        " OpenAI's models send those of another vocabulary",
    )
    files = parser.add_argument_group("files that requests may name")
    files.add_argument("--workspace", metavar="DIR", help="default: the current folder")
    files.add_argument(
        "--model-dir",
        metavar="DIR",
        action="append",
        help="another folder of models and states; may be given several times",
    )
    title = "what requests do not say (default: as the model's family has it)"
    state_flag(sampling_flags(parser, title, _DEFAULTS))
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help="maximum requests processed at once (default: 64)",
    )
    engine.add_argument(
        "--prefill-chunk",
        type=int,
        metavar="N",
        help="most prompt tokens of one step (default: 256)",
    )
    engine.add_argument(
        "--max-queue",
        type=int,
        metavar="N",
        help="requests that may wait; more get a 429 (default: 4096)",
    )
    engine.add_argument(
        "--step-ms",
        type=float,
        metavar="MS",
        help="cap on how long running streams may be delayed by other requests' prompts, in"
        " milliseconds (default: 20)",
    )
    engine.add_argument(
        "--speculate",
        type=int,
        metavar="N",
        help="guess so many tokens ahead from the text so far and verify them: the same answers,"
        " sooner where text repeats itself (0: off)",
    )
    engine.add_argument(
        "--cache-mb",
        type=int,
        metavar="N",
        help="size of the prefix cache in MiB, so that the next turn of a conversation costs its"
        " new tokens only (default: a quarter of the free memory; 0: none)",
    )
    engine.add_argument(
        "--max-prompt-tokens", type=int, metavar="N", help="longest prompt (default: 1048576)"
    )
    engine.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="upper limit for the tokens of an answer; requests for more are cut down (default:"
        " 102400)",
    )
    engine.add_argument(
        "--default-max-tokens",
        type=int,
        metavar="N",
        help="limit for chats that set none (default: 4096); completions keep theirs of 500",
    )
    engine.add_argument(
        "--prompt-format",
        metavar="FORM",
        help="of chats: official, the form that models have learnt, or runner: messages as they"
        " are, as RWKV Runner 1.9 feeds them (default: official)",
    )


def run(args: argparse.Namespace) -> int:
    if args.webui:
        raise Refused("--webui: this version has no browser UI yet; leave the flag out")
    given = {name: getattr(args, name) for name in (*_SETTINGS, *_DEFAULTS, "state")}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    try:
        config = Config.from_environment(**given)
    except ValueError as problem:
        name, _, rest = str(problem).partition(" ")
        if given.get(name) is None:  # it comes from the environment
            raise
        raise Refused(f"--{name.replace('_', '-')} {rest}") from None
    if (problem := exposure.problem(config, [config.host])) is not None:
        raise Refused(problem)
    _check_folders(config)
    if config.model != "none":
        import rwkv_native as rn
        from web.engine import model_loading

        path = os.fspath(model_path(config))
        # Raises if it is no model.
        model_loading.needed(model_loading.Choice(path, path, config.strategy))
        # Reads the index and the strategy, and waits for its threads: none is left at the fork.
        rn.Model.load(
            path,
            config.strategy,
            config.threads or None,
            adapter=adapter_of(config),
        ).cancel()
        if config.state is not None and not Path(config.state).is_file():
            raise Refused(f"--state {config.state}: there is no such file")
        if config.tokenizer is not None:
            tokenizer_named(config.tokenizer)
    if config.host.startswith(UNIX):
        _check_path(config.host)
    else:
        _check_port(config)
    # The worker reads its settings from the environment, as it does under bare gunicorn.
    os.environ.update(config.to_environment())
    _serve()
    return 0


def _check_folders(config: Config) -> None:
    """Else a misspelt one would show by the first request that names a file in it."""
    folders = [("--workspace", config.workspace)]
    folders += [("--model-dir", name) for name in config.model_dir]
    for flag, name in folders:
        if not Path(name).is_dir():
            raise Refused(f"{flag} {name}: there is no such folder")


def _check_port(config: Config) -> None:
    """gunicorn would try for five seconds and leave behind a log of its attempts."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        where = f"{config.host}:{config.port}"
        if error.errno == errno.EADDRINUSE:
            reason += "; --port chooses another"
        raise OSError(f"cannot listen on {where}: {reason}") from None


def _check_path(host: str) -> None:
    """gunicorn would take the socket away from another server."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(host.removeprefix(UNIX))
        except (FileNotFoundError, ConnectionRefusedError):
            if Path(host.removeprefix(UNIX)).parent.is_dir():
                return
            raise OSError(f"cannot listen on {host}: its folder does not exist") from None
        except OSError as error:
            raise OSError(f"cannot listen on {host}: {error.strerror or error}") from None
    raise OSError(f"cannot listen on {host}: another server does")


def _settings() -> dict[str, Any]:
    """What `web/gunicorn.conf.py` of this very package sets."""
    path = Path(__file__).resolve().parents[1] / "gunicorn.conf.py"
    spec = importlib.util.spec_from_file_location("web.gunicorn_conf", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def _serve() -> None:
    """Runs until it is told to stop; gunicorn ends by SystemExit."""
    from gunicorn.app.base import BaseApplication

    class Server(BaseApplication):
        def load_config(self) -> None:
            settings = _settings()
            for name, value in settings.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)
            start = settings["post_worker_init"]

            def post_worker_init(worker: Any) -> None:
                line = LoadLine(sys.stderr, _model_name())
                if sys.stderr.isatty():
                    worker.log.error_log.addFilter(_AroundLine(line))
                start(worker)
                _watch_load(worker.wsgi.runtime, line)

            self.cfg.set("post_worker_init", post_worker_init)
            self.cfg.set("when_ready", _announce)

        def load(self) -> Any:
            from web.wsgi import app

            return app

    Server().run()


def _model_name() -> str:
    return Path(os.environ.get("RWKV_NATIVE_MODEL") or "the demo model").name


def _announce(server: Any) -> None:
    import rwkv_native as rn

    # Where port 0 was asked for, the socket knows what it has become.
    bound = server.LISTENERS[0].sock.getsockname()
    url = None
    if isinstance(bound, str):
        where = f"{UNIX}{bound}"
    else:
        host, port = bound[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        where = f"{url} (OpenAI clients: base_url {url}/v1)"
    print(f"\nrwkv-native {rn.__version__}: {where}", file=sys.stderr)
    if url is not None:
        print(f"Try it at {url}/docs, or with `rwkv-native chat`.", file=sys.stderr)
    print("Ctrl-C ends it.\n", file=sys.stderr, flush=True)


def _watch_load(runtime: Any, line: LoadLine) -> None:
    """Shows a worker's load on a terminal, and ends the server if the very first one fails: whoever
    named a model on the command line wants that one. A worker that takes over from another must
    not: nobody named the model that /switch-model chose, and clients can choose again."""
    import gevent

    from web.engine.model_host import LOADING, OFFLINE

    if runtime.status != LOADING:
        return

    def watch() -> None:
        while (share := runtime.progress) is not None:
            line.show(share, 1)
            gevent.sleep(0.1)
        line.wipe()
        if runtime.status == OFFLINE and not runtime.succeeds:
            # gunicorn's code for a worker that cannot start: the master ends, too.
            sys.exit(3)

    gevent.spawn(watch)


class _AroundLine(logging.Filter):
    """Keeps log records apart from the progress line, which says what theirs would."""

    def __init__(self, line: LoadLine) -> None:
        super().__init__()
        self._line = line

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith("loading ") and message.endswith("%"):
            return False
        self._line.wipe()
        return True
