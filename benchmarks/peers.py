"""Our speed beside that of others, measured in turns: llama.cpp, and `rwkv` with torch.

`python benchmarks/peers.py` writes random RWKV-7 models of the published shapes into build/peers,
converts them for each peer with our own tools, and prints a table: ours, the peer, their ratio and
our share of what the machine could do at that moment. A row is measured five times (the limit,
ours, the peer, the limit, ...), each side in a process of its own that waits while the other works;
shown are medians, of the ratios too. Below it come tokenizers (text.py) and servers (server.py).

llama.cpp comes as llama-cpp-python, which is installed into build/peers (minutes) unless
--llama-python names a Python that has it; llama-server is built from its sources unless
--llama-server names one. Rows of the `rwkv` package need --torch-python.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import limits
import server
import text
from sides import FOLDER, Bench, Cost, Runner, llama_python

# Steps of one measurement: about half a second.
STEPS = {("0.1B", 1): 48, ("0.1B", 8): 24, ("0.1B", 32): 12, ("0.4B", 1): 24, ("1.5B", 1): 12}


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
        work = {"do": "decode", "batch": row.batch, "tokens": STEPS[row.model, row.batch]}
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
        tops.append(limit(row, cost, seen) if cost else None)
    show(row, rates, others, tops)


def limit(row: Row, cost: Cost, seen: limits.Limits) -> float:
    """Tokens per second at most."""
    if row.work == "prefill":
        return 512 / cost.seconds(seen, row.strategy, steps=1, batch=1, prompt=511)
    return row.batch / cost.seconds(seen, row.strategy, steps=1, batch=row.batch)


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
    tokens = STEPS[row.model, 1]
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
    shown = [r for r in rows() if wanted(f"{r.name} {r.strategy} {r.peer}")]
    if shown:
        line(*COLUMNS)
        print("|" + "---|" * len(COLUMNS))
    loaded: tuple[str, ...] = ()
    pair: tuple[Runner | None, Runner | None] = (None, None)
    for row in shown:
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
    if wanted("text"):
        text.measure(bench)
    if wanted("server"):
        print()
        server.measure(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-python", metavar="PYTHON", help="one that has llama-cpp-python")
    parser.add_argument("--torch-python", metavar="PYTHON", help="one that has torch and rwkv")
    parser.add_argument("--llama-server", metavar="PROGRAM", help="one that is built already")
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
        server=args.llama_server,
        threads=args.threads,
        rounds=args.rounds,
    )
    table(lambda name: not args.only or any(text in name for text in args.only), bench)
    print(f"\n{limits.measure(1)}\n{limits.measure(args.threads)}")
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
