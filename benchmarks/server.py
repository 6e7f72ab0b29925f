"""Our server beside llama-server: many requests at once, and how evenly streams are delivered.

The last table of benchmarks/peers.py. Both run at once on the same weights and are measured in
turns: `ab -c 20 -n 100` (apache2-utils) with 32 tokens each, then streams: time to the first token
of one and of 20, and the largest gap within a stream beside the step, the mean time between tokens.
All requests are greedy. The server of llama-cpp-python itself answers one request at a time, so it
is llama-server of the same sources.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import limits
import sides

CLIENTS, REQUESTS, TOKENS = 20, 100, 32
PROMPT = "User: Hello, how are you today?\n\nAssistant:"
PATH = "/v1/completions"


def body(prompt: str = PROMPT, **more: object) -> bytes:
    asked = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "model": "x", **more}
    return json.dumps(asked).encode()


class Server:
    """A server on a free port; ready when it answers a completion."""

    def __init__(self, *command: str | Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*command, "--port", str(self.port)], **quiet)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if self.ask()["completion_tokens"] == TOKENS:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise SystemExit(f"{command[0]} does not answer {TOKENS} tokens")
            time.sleep(0.1)

    def ask(self) -> dict[str, int]:
        """What one whole answer has used."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", PATH, body(), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())["usage"]

    def memory(self) -> float:
        """MB resident at most, of the process and its children."""
        pids = [self._process.pid]
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()
        peaks = (
            re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            for pid in [*pids, *children]
        )
        return sum(int(found[1]) for found in peaks if found) * 1024 / 1e6

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def flood(server: Server) -> dict[str, float]:
    """What ab says: tokens per second, and seconds that requests took."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body())
        file.flush()
        url = f"http://127.0.0.1:{server.port}{PATH}"
        command = ["ab", "-q", "-l", "-c", str(CLIENTS), "-n", str(REQUESTS), "-p", file.name]
        said = subprocess.run(
            [*command, "-T", "application/json", url], check=True, capture_output=True, text=True
        ).stdout
    failed = re.search(r"(Failed requests:\s+[1-9]|Non-2xx).*", said)
    if failed:
        raise SystemExit(f"ab: {failed[0]}")
    seconds = float(re.search(r"Time taken for tests:\s+([\d.]+)", said)[1])
    shares = dict(re.findall(r"^\s+(50|95|100)%\s+(\d+)", said, re.M))
    found = {name: int(ms) / 1000 for name, ms in shares.items()}
    return {"rate": REQUESTS * TOKENS / seconds, **found}


@dataclass(slots=True)
class Stream:
    """One streamed answer: when it was asked for, and when each of its tokens came."""

    asked: float
    came: list[float] = field(default_factory=list)
    rest: bytes = b""

    def take(self, raw: bytes, now: float) -> None:
        *events, self.rest = (self.rest + raw).split(b"\n\n")
        for event in events:
            if re.search(rb'"text": ?"[^"]', event):  # the last event has no text
                self.came.append(now)

    @property
    def first(self) -> float:
        return self.came[0] - self.asked

    @property
    def step(self) -> float:
        return (self.came[-1] - self.came[0]) / (len(self.came) - 1)

    @property
    def gap(self) -> float:
        return max(b - a for a, b in zip(self.came, self.came[1:], strict=False))


def stream(server: Server, count: int, turn: int) -> list[Stream]:
    """Reads so many streams that begin together, in one thread: both servers share the cores with
    their client."""
    waiting = selectors.DefaultSelector()
    for i in range(count):
        connection = socket.create_connection(("127.0.0.1", server.port))
        # No two prompts are equal: no server answers from its cache.
        raw = body(f"User: {turn}, {i}: how are you?\n\nAssistant:", stream=True)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        waiting.register(connection, selectors.EVENT_READ, (head.encode() + raw, Stream(0)))
    for key in list(waiting.get_map().values()):
        request, one = key.data
        one.asked = time.perf_counter()
        key.fileobj.sendall(request)
    streams = [key.data[1] for key in waiting.get_map().values()]
    while waiting.get_map():
        for key, _ in waiting.select():
            raw = key.fileobj.recv(1 << 16)
            key.data[1].take(raw, time.perf_counter())
            if not raw:
                waiting.unregister(key.fileobj)
                key.fileobj.close()
    short = [len(s.came) for s in streams if len(s.came) < TOKENS // 2]
    if short:
        raise SystemExit(f"a stream of {TOKENS} tokens came as {short[0]} texts")
    return streams


@dataclass(slots=True)
class Seen:
    """What one server did in all turns."""

    floods: list[dict[str, float]] = field(default_factory=list)
    alone: list[Stream] = field(default_factory=list)
    together: list[Stream] = field(default_factory=list)
    memory: float = 0

    def latency(self, share: str) -> float:
        return statistics.median(flood[share] for flood in self.floods)

    @property
    def rate(self) -> float:
        return self.latency("rate")

    @property
    def worst(self) -> float:
        """The largest gap within a stream, in steps of the median stream."""
        step = statistics.median(one.step for one in self.together)
        return max(one.gap for one in self.together) / step


def watch(server: Server, seen: Seen, turn: int) -> None:
    seen.floods.append(flood(server))
    for i in range(5):
        seen.alone += stream(server, 1, 100 * turn + i)
    seen.together += stream(server, CLIENTS, 100 * turn + 50)
    seen.memory = server.memory()


def table(ours: Seen, theirs: Seen, top: float) -> None:
    def firsts(streams: list[Stream]) -> float:
        return 1000 * statistics.median(one.first for one in streams)

    def row(
        name: str, mine: float, other: float, unit: str, target: str, more: bool = False
    ) -> None:
        ratio = mine / other if more else other / mine
        print(f"| {name} | {mine:.3g} {unit} | {other:.3g} {unit} | {ratio:.2f}x | {target} |")

    print("| 0.1B bf16 | ours | llama-server | ours is better by | target |\n" + "|---" * 5 + "|")
    name = f"`ab -c {CLIENTS} -n {REQUESTS}`"
    row(f"{name}, tokens", ours.rate, theirs.rate, "/s", "1300/s", more=True)
    row(f"{name}, half within", ours.latency("50"), theirs.latency("50"), "s", "")
    row(f"{name}, 95 % within", ours.latency("95"), theirs.latency("95"), "s", "0.55 s")
    row(f"{name}, all within", ours.latency("100"), theirs.latency("100"), "s", "")
    row("first token, 1 stream", firsts(ours.alone), firsts(theirs.alone), "ms", "12 ms")
    many = f"first token, {CLIENTS} streams"
    row(many, firsts(ours.together), firsts(theirs.together), "ms", "100 ms")
    row("largest gap of a stream", ours.worst, theirs.worst, "steps", "3 steps")
    row("resident memory, peak", ours.memory, theirs.memory, "MB", "")
    print(f"\nlimit {top:.0f} tokens/s, of which ours are {ours.rate / top:.0%}")


def measure(bench: sides.Bench) -> None:
    """Runs both servers and prints the table."""
    if shutil.which("ab") is None:
        raise SystemExit("ab is missing; Debian and Ubuntu: apt install apache2-utils")
    model, strategy, threads = "0.1B", "cpu bf16", str(bench.threads)
    command = Path(sys.executable).with_name("rwkv-native")
    mine = (command, "serve", "--model", bench.file(model, "safetensors"), "--no-access-log")
    other = (sides.llama_server(bench.server, bench.folder), "-m", bench.file(model, "BF16"))
    size = ("-np", str(CLIENTS), "-c", str(2048 * CLIENTS))
    cost = bench.cost(model, strategy)
    with (
        Server(*mine, "--strategy", strategy, "--threads", threads) as one,
        Server(*other, *size, "-t", threads) as two,
    ):
        ours, theirs, tops = Seen(), Seen(), []
        prompt = one.ask()["prompt_tokens"]
        for turn in range(bench.rounds):
            seen = limits.measure(bench.threads)
            # 20 requests at a time read the weights once per step, together.
            spent = cost.seconds(seen, strategy, TOKENS, CLIENTS, prompt)
            tops.append(CLIENTS * TOKENS / spent)
            watch(one, ours, turn)
            watch(two, theirs, turn)
    table(ours, theirs, statistics.median(tops))
    print(f"({prompt} prompt tokens, {TOKENS} drawn by every request)")
