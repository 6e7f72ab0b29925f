"""Our speed beside that of others, measured in turns: llama.cpp, and `rwkv` with torch.

`python benchmarks/peers.py` writes random RWKV-7 models of the published shapes into build/peers,
converts them for each peer with our own tools, and prints one table: ours, the peer, their ratio
and our share of what the machine could do at that moment. A row is measured five times (the limit,
ours, the peer, the limit, ...), each side in a process of its own that waits while the other works;
shown are medians, of the ratios too. llama.cpp comes as llama-cpp-python, which is installed into
build/peers (minutes) unless --llama-python names a Python that has it. Rows of the `rwkv` package
need --torch-python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from select import select

import limits
import load
import random_model

from rwkv_native import convert

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "build" / "peers"
LLAMA = "llama-cpp-python==0.3.36"
PATIENCE = 120.0  # seconds that one measurement may take

SHAPES = {
    "0.1B": random_model.Shape(),
    "0.4B": random_model.Shape(layers=24, width=1024, ffn=4096),
    "1.5B": random_model.Shape(24, 2048, 8192, rank_w=96, rank_a=96, rank_v=64, rank_g=256),
}
TOKENS = {"0.1B": 48, "0.4B": 24, "1.5B": 12}  # decoded at batch 1: about half a second


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a model, what it does, and who does it."""

    model: str
    strategy: str
    peer: str  # the type of a GGUF file, or "torch" and a strategy
    work: str  # "decode", "prefill", "load" or "memory"
    batch: int = 1
    target: str = ""

    @property
    def name(self) -> str:
        what = {"decode": f"decode, batch {self.batch}", "prefill": "prefill 512"}
        return f"{self.model} {what.get(self.work, self.work)}"


def rows() -> Iterator[Row]:
    """The table, grouped so that a pair of models is loaded once."""
    for model, targets in (
        ("0.1B", ("88 %, 1.2x", "80 %, 1.6x", "70 %, 1.6x", "above")),
        ("0.4B", ("1.2x", "1.5x", "1.5x", "")),
        ("1.5B", ("1.1x", "1.25x", "1.3x", "")),
    ):
        pairs = zip(
            ("cpu bf16", "cpu bf16i8", "cpu bf16i4", "cpu bf16i4"),
            ("BF16", "Q8_0", "Q4_0", "Q4_K_M"),
            targets,
            strict=True,
        )
        for strategy, peer, target in pairs:
            row = Row(model, strategy, peer, "decode", target=target)
            yield row
            if model != "0.1B" or peer == "Q4_K_M":
                continue
            prefill = {"BF16": "70 %, 1.9x", "Q8_0": "3x"}
            if peer in prefill:
                yield replace(row, work="prefill", target=prefill[peer])
            small, large = ("2x", "2.5x") if peer == "BF16" else ("", "3x the better")
            yield replace(row, batch=8, target=small)
            yield replace(row, batch=32, target=large)
        if model == "0.1B":
            yield Row(model, "cpu bf16", "torch cpu bf16", "decode")
            yield Row(model, "cpu bf16", "torch cpu bf16", "prefill")
        if model != "0.4B":
            yield Row(model, "cpu bf16", "torch cpu bf16", "load", target="read + pack")
            yield Row(model, "cpu bf16", "BF16", "load", target="converted 0.1 s")
            yield Row(model, "cpu bf16", "BF16", "memory", target="weights + 150 MB")


class Runner:
    """A process that holds one model and does what it is asked (runners/answers.py)."""

    def __init__(self, *command: str | Path) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.loaded = self._answer(10 * PATIENCE)

    def ask(self, do: str, patience: float = PATIENCE, **what: int) -> dict[str, float]:
        print(json.dumps({"do": do, **what}), file=self._process.stdin, flush=True)
        return self._answer(patience)

    def _answer(self, patience: float) -> dict[str, float]:
        out = self._process.stdout
        if not select([out], [], [], patience)[0]:
            self.close()
            raise TimeoutError(f"no answer within {patience:.0f} s")
        if line := out.readline():
            return json.loads(line)
        self._log.seek(0)
        raise SystemExit(f"a runner failed:\n{self._log.read().decode()[-2000:]}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the files lie, who runs them, and how often."""

    folder: Path
    llama: Path
    torch: Path | None
    threads: int
    rounds: int

    def file(self, model: str, form: str) -> Path:
        """The model as .safetensors, .pth, or a GGUF of some type; written once."""
        if form in ("safetensors", "pth"):
            path = self.folder / f"{model}.{form}"
        else:
            path = self.folder / f"{model}-{form}.gguf"
        if path.exists():
            return path
        print(f"writing {path.name}", file=sys.stderr, flush=True)
        part = path.with_name(f"part-{path.name}")
        if form == "safetensors":
            random_model.write(part, SHAPES[model])
        elif form == "pth":
            load.write_pth(part, self.file(model, "safetensors"))
        elif form in ("BF16", "F16"):
            convert.to_gguf(
                self.file(model, "safetensors"), part, {"F16": "fp16"}.get(form, "bf16"), force=True
            )
        else:
            source = self.file(model, "BF16")
            command = [self.llama, HERE / "runners" / "llama.py", "--quantize", source, part, form]
            subprocess.run(command, check=True)
        return part.rename(path)

    def ours(
        self, model: str, strategy: str, form: str = "safetensors", threads: int = 0
    ) -> Runner:
        script = HERE / "runners" / "ours.py"
        threads = threads or self.threads
        return Runner(sys.executable, script, self.file(model, form), strategy, str(threads))

    def peer(self, model: str, peer: str) -> Runner | None:
        """The other side of a row; None where it was not asked for."""
        scripts = HERE / "runners"
        if not peer.startswith("torch"):
            return Runner(
                self.llama, scripts / "llama.py", self.file(model, peer), str(self.threads)
            )
        if self.torch is None:
            return None
        strategy = peer.removeprefix("torch ")
        path = self.file(model, "pth")
        return Runner(self.torch, scripts / "official.py", path, strategy, str(self.threads))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model must at least read and compute."""

    weights: int  # bytes that a step reads, at any batch size
    state: int  # bytes of one sequence's state, read and written
    token: int  # operations of one token with its logits
    head: int  # the part of them that the logits take

    def limit(self, row: Row, seen: limits.Limits) -> float:
        """Tokens per second at most: the slower of memory and arithmetic."""
        if row.work == "prefill":
            moved, computed, tokens = (
                self.weights + 2 * self.state,
                512 * (self.token - self.head),
                512,
            )
        else:
            moved = self.weights + 2 * row.batch * self.state
            computed, tokens = self.token * row.batch, row.batch
        return tokens / max(moved / seen.read.best / 1e9, computed / seen.peak(row.strategy) / 1e9)


COLUMNS = ("row", "ours", "peer", "tok/s", "peer tok/s", "ratio", "limit", "of it", "target")


def line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def speed_row(row: Row, bench: Bench, ours: Runner | None, peer: Runner | None) -> None:
    """Decoding or a prompt: tokens per second."""
    work = {"do": "prefill", "tokens": 512}
    if row.work == "decode":
        work = {"do": "decode", "batch": row.batch, "tokens": TOKENS[row.model]}
    cost = Cost(**ours.ask("cost")) if ours else None
    rates, others, tops = [], [], []
    for turn in range(bench.rounds + 1):
        seen = limits.measure(bench.threads)
        mine = ours.ask(**work)["rate"] if ours else None
        theirs = peer.ask(**work)["rate"] if peer else None
        if turn == 0:
            continue  # the first turn warms both up
        rates.append(mine)
        others.append(theirs)
        tops.append(cost.limit(row, seen) if cost else None)
    show(row, rates, others, tops)


def show(
    row: Row,
    rates: list[float | None],
    others: list[float | None],
    tops: list[float | None],
) -> None:
    """A line of medians; what one side cannot do is a dash."""

    def median(values: list[float | None]) -> float | None:
        return None if None in values or not values else statistics.median(values)

    def of(some: list[float | None], all_: list[float | None]) -> float | None:
        if None in some or None in all_:
            return None
        return median([a / b for a, b in zip(some, all_, strict=True)])

    ratio, share = of(rates, others), of(rates, tops)
    line(
        *(row.name, row.strategy, row.peer, number(median(rates)), number(median(others))),
        "-" if ratio is None else f"{ratio:.2f}x",
        number(median(tops)),
        "-" if share is None else f"{share:.0%}",
        row.target,
    )


def load_row(row: Row, bench: Bench) -> None:
    """Seconds to load, each time in a new process; the files lie in the page cache."""
    form = "pth" if row.peer.startswith("torch") else "safetensors"
    times, others = [], []
    for _ in range(bench.rounds):
        with bench.ours(row.model, row.strategy, form) as ours:
            times.append(ours.loaded["load"])
        with bench.peer(row.model, row.peer) or contextlib.nullcontext() as peer:
            others.append(peer.loaded["load"] if peer else None)
    mine = statistics.median(times)
    theirs = None if None in others else statistics.median(others)
    line(
        *(f"{row.name}, .{form}", row.strategy, row.peer),
        f"{mine:.2f} s",
        "-" if theirs is None else f"{theirs:.2f} s",
        "-" if theirs is None else f"{theirs / mine:.2f}x",
        *("", "", row.target),
    )


def memory_row(row: Row, bench: Bench) -> None:
    """Resident memory after a prompt and some tokens."""
    used = []
    for open_runner in (
        lambda: bench.ours(row.model, row.strategy),
        lambda: bench.peer(row.model, row.peer),
    ):
        with open_runner() as runner:
            runner.ask("prefill", tokens=512)
            runner.ask("decode", batch=1, tokens=8)
            used.append(runner.ask("memory"))
    weights = bench.file(row.model, "safetensors").stat().st_size / 1e6
    shown = [f"{u['peak']:.0f} MB, {u['anonymous']:.0f} anonymous" for u in used]
    ratio = used[1]["peak"] / used[0]["peak"]
    line(
        *(f"{row.name}, {weights:.0f} MB of weights", row.strategy, row.peer, *shown),
        *(f"{ratio:.2f}x", "", "", row.target),
    )


def busy_rows(bench: Bench) -> None:
    """Decoding beside a process that never rests, against one thread without it."""
    row = Row("0.1B", "cpu bf16", "BF16", "decode", target="60 % of 1 thread")
    rates: dict[str, list[float | None]] = {"alone": [], "beside": [], "peer": []}
    tokens = TOKENS[row.model]
    with (
        bench.ours(row.model, row.strategy, threads=1) as one,
        bench.ours(row.model, row.strategy) as all_,
    ):
        for _ in range(bench.rounds):
            rates["alone"].append(one.ask("decode", batch=1, tokens=tokens)["rate"])
            with busy():
                rates["beside"].append(all_.ask("decode", batch=1, tokens=tokens)["rate"])
                with bench.peer(row.model, row.peer) as peer, contextlib.suppress(TimeoutError):
                    rates["peer"].append(peer.ask("decode", 15, batch=1, tokens=8)["rate"])
    alone = statistics.median(rates["alone"])
    beside = statistics.median(rates["beside"])
    shares = zip(rates["beside"], rates["alone"], strict=True)
    share = statistics.median(a / b for a, b in shares)
    # A peer that did not end in time decoded fewer than 8 tokens (and its warm-up) in 15 seconds.
    missing = bench.rounds - len(rates["peer"])
    theirs = statistics.median([0.0] * missing + rates["peer"])
    line(
        *(
            "0.1B decode beside a busy process",
            f"{row.strategy}, {bench.threads} threads",
            row.peer,
        ),
        number(beside),
        number(theirs) if theirs else "< 0.6",
        f"{beside / theirs:.1f}x" if theirs else f"> {beside / 0.6:.0f}x",
        f"{number(alone)} (1 thread, quiet)",
        f"{share:.0%}",
        row.target,
    )


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """A process that never rests, wherever the system puts it."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def opened(row: Row, bench: Bench) -> tuple[Runner | None, Runner | None]:
    """Both sides of a row, loaded; None for one that cannot be."""
    ours = bench.ours(row.model, row.strategy)
    if refused := ours.loaded.get("refused"):
        print(f"{row.strategy}: {refused}", file=sys.stderr)
        ours.close()
        ours = None
    return ours, bench.peer(row.model, row.peer)


def table(wanted: Callable[[str], bool], bench: Bench) -> None:
    line(*COLUMNS)
    print("|" + "---|" * len(COLUMNS))
    loaded: tuple[str, ...] = ()
    pair: tuple[Runner | None, Runner | None] = (None, None)
    for row in rows():
        if not wanted(f"{row.name} {row.strategy} {row.peer}"):
            continue
        side = row.model, row.strategy, row.peer
        if row.work in ("load", "memory") or side != loaded:
            for runner in filter(None, pair):
                runner.close()
            pair, loaded = (None, None), ()
        if row.work == "load":
            load_row(row, bench)
        elif row.work == "memory":
            memory_row(row, bench)
        else:
            if not loaded:
                pair, loaded = opened(row, bench), side
            speed_row(row, bench, *pair)
    for runner in filter(None, pair):
        runner.close()
    if wanted("0.1B decode beside a busy process"):
        busy_rows(bench)


def llama_python(given: str | None, folder: Path) -> Path:
    """A Python that has llama-cpp-python: the one that is named, or one made here."""
    if given:
        return Path(given)
    python = folder / "llama" / "bin" / "python"
    if not python.exists():
        print(f"installing {LLAMA} (compiles for minutes)", file=sys.stderr, flush=True)
        venv.create(folder / "llama", with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", LLAMA], check=True)
        except BaseException:
            python.unlink()  # so that the next run tries again
            raise
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-python", metavar="PYTHON", help="one that has llama-cpp-python")
    parser.add_argument("--torch-python", metavar="PYTHON", help="one that has torch and rwkv")
    parser.add_argument("--only", metavar="TEXT", action="append", help="rows that contain it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for models (15 GB for all)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        folder=args.folder,
        llama=llama_python(args.llama_python, args.folder),
        torch=Path(args.torch_python) if args.torch_python else None,
        threads=args.threads,
        rounds=args.rounds,
    )
    table(lambda name: not args.only or any(text in name for text in args.only), bench)
    print(f"\n{limits.measure(1)}\n{limits.measure(args.threads)}")
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
