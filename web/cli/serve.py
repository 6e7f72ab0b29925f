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

from web.cli import flags
from web.cli.terminal import LoadLine, Refused, adapter_of, model_path, tokenizer_named
from web.config import UNIX, Config
from web.transport import exposure

SUMMARY = "serve a model over HTTP"
EPILOG = """\
Clients: OpenAI's with base URL http://HOST:PORT/v1 and any API key; RWKV Runner's with
http://HOST:PORT. Ctrl-C ends the server.

Each flag is also an environment variable, such as RWKV_NATIVE_MAX_BATCH=32; flags win.
docs/deployment.md describes a server for others.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_settings(parser)
    parser.add_argument("--webui", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    if args.webui:
        raise Refused("--webui: this version has no browser UI yet; leave the flag out")
    config = flags.config_of(args)
    if (problem := exposure.problem(config, [config.host])) is not None:
        raise Refused(problem)
    _check_folders(args, config)
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
            raise Refused(f"{flags.name_of(args, 'state')} {config.state}: there is no such file")
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


def _check_folders(args: argparse.Namespace, config: Config) -> None:
    """Else a misspelt one would show by the first request that names a file in it."""
    folders = [("workspace", config.workspace)]
    folders += [("model_dir", name) for name in config.model_dir]
    for setting, name in folders:
        if not Path(name).is_dir():
            raise Refused(f"{flags.name_of(args, setting)} {name}: there is no such folder")


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
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host)
        host = everywhere or host
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        where = f"{url} (OpenAI clients: base_url {url}/v1)"
        if everywhere:
            where += f"\nOther machines reach it by this machine's address, port {port}."
    print(f"\nrwkv-native {rn.__version__}: {where}", file=sys.stderr)
    if url is not None:
        print(f"Try it at {url}/docs.", file=sys.stderr)
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
