"""gunicorn's settings, and the hooks that start and stop the engine. One gevent worker: it carries
40 to 60 thousand tokens per second, far more than a CPU decodes, and two workers would mean two
engines, of which a request that changes the server would reach only one.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gevent

from web.config import Config
from web.dialects import openai_errors
from web.midi import sample, sound
from web.process import engine_lock, graceful_stop, inherited_settings, systemd_watchdog
from web.transport import bad_requests, exposure, log_writer, open_connections
from web.transport.worker import HEADERS

try:
    _config = Config.from_environment()
except ValueError as problem:
    sys.exit(f"Error: {problem}")  # gunicorn would print a traceback

_settings = _config.gunicorn()
bind = _settings["bind"]
backlog = _settings["backlog"]
# Of one header; the worker bounds them together.
limit_request_field_size = HEADERS
# Pooled clients keep connections for a minute or more and see resets when the server is quicker.
keepalive = _settings["keepalive"]
accesslog = _settings["accesslog"]
errorlog = "-"
logger_class = "web.transport.access_log.AccessLog"

workers = 1
worker_class = "web.transport.worker.Worker"
worker_connections = _settings["worker_connections"]
preload_app = False  # native threads and CUDA contexts do not survive fork
reuse_port = False
max_requests = 0  # a new worker loads the model again, and nobody is served meanwhile

# The worker's heartbeat is a greenlet, so this bounds how long the hub may stand still, not how
# long an answer may take. A worker killed for it loads its model again: seconds to minutes. So
# only a worker that is stuck for good may run into it, not one on a slow disk.
timeout = 120
# What a stop leaves to running answers: 500 tokens at 20 tokens/s take 25 s.
graceful_timeout = 30

# Seconds that requests wait for a worker that takes over to load its model. Most clients wait for a
# minute at least; then they are told to come again.
_WAITING = 60

# By default a peer on loopback, so a client as well as a proxy, may send headers that replace the
# path of its own request.
forwarder_headers = ""
http_protocols = "h1"  # gunicorn serves the streams of one HTTP/2 connection one after the other
control_socket_disable = True  # its default path is one per user: two servers would fight over it
proc_name = "rwkv-native"


def on_starting(server: Any) -> None:
    """Refuses what cannot work (flags override this file), in the master, before any worker.
    gunicorn prints a RuntimeError as one line and exits with 1."""
    if server.cfg.workers > 1:
        raise RuntimeError(
            f"workers = {server.cfg.workers} is refused: every worker would hold its own engine "
            "and its own copy of the weights. One worker batches all requests; use -w 1."
        )
    if server.cfg.worker_class_str != worker_class:
        raise RuntimeError(
            f"worker class {server.cfg.worker_class_str} is refused: only {worker_class} bounds "
            "what a client may cost; leave -k out."
        )
    hosts = [at if isinstance(at, str) else at[0] for at in server.cfg.address]
    if (problem := exposure.problem(_config, hosts)) is not None:
        raise RuntimeError(problem)
    log_writer.install_in_master()
    _allow_open_files(server.cfg.worker_connections + 256)
    engine_lock.prepare()
    inherited_settings.prepare()
    # SIGUSR2 would start a second master with an engine of its own, beside this one.
    server.reexec = lambda: server.log.warning("SIGUSR2 is refused: reload by SIGHUP, or restart")


def post_fork(server: Any, worker: Any) -> None:
    graceful_stop.obey_early(server, worker)


def post_worker_init(worker: Any) -> None:
    """In the worker, before it accepts: waits for its turn, then starts the load. A worker that
    takes over from another accepts nothing before its model is there, so that requests wait in
    the listener's backlog; the first one accepts at once, and tells how far the load is."""
    # Ctrl-C reaches the whole process group, and the master passes it on: the first of the two
    # would end the worker with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine_lock.become(worker)
    graceful_stop.watch(worker)
    bad_requests.install(openai_errors.body)
    worker.send_timeout = _config.send_timeout
    worker.keeps_alive = _config.timeout_keep_alive > 0
    runtime = worker.wsgi.runtime
    runtime.start(worker.log.info)
    systemd_watchdog.watch(lambda: runtime.healthy or runtime.model_name is None, worker.log)
    gevent.spawn(_say_what_is_missing, worker.log)
    if not _config.deploy:
        sample.write(Path(_config.workspace))
    if runtime.succeeds:
        _wait_for_model(worker, runtime)


def pre_request(worker: Any, req: Any) -> None:
    open_connections.request_begins(req.unreader.sock)


def post_request(worker: Any, req: Any, environ: dict[str, Any], resp: Any) -> None:
    open_connections.request_ends(req.unreader.sock)


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, at its end. (The master may call it for a worker that never came up.)"""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.runtime.close()
        graceful_stop.await_ends()
    log_writer.drain()


def _wait_for_model(worker: Any, runtime: Any) -> None:
    end = time.monotonic() + _WAITING
    while runtime.progress is not None and time.monotonic() < end:
        worker.notify()
        gevent.sleep(0.05)


def _say_what_is_missing(log: Any) -> None:
    if sound.missing():
        log.warning("%s", sound.MISSING)


def _allow_open_files(wanted: int) -> None:
    """The usual soft limit of 1024 files would cap connections far below worker_connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
