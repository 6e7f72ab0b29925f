"""How fast a checkpoint loads, beside reading the same file, and how much memory that takes.

`python benchmarks/load.py` writes random weights of the 0.1B shape (0.38 GB) as .safetensors and as
.pth into a temporary folder. Warm: the file lies in the page cache. Cold: the cache has been asked
to drop it before every run. Reading is one thread with a buffer of 8 MiB, the same with as many
threads as the load has, and the same into fresh huge pages: no loader that lays weights out anew
does with less, because the system clears every page that it hands out. GB per CPU second is what
neighbours on a shared machine disturb least.
Memory is RssAnon of a process of its own, sampled every 2 ms: what malloc and mmap gave, without
the file's own pages, which the kernel may take back at any time.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import random_model

import rwkv_native as rn

CHUNK = 8 << 20
STRATEGIES = ("cpu bf16", "cpu fp16")  # as stored; with a conversion
SPARE = 200  # MB beyond the weights that a load may take


@dataclass(frozen=True, slots=True)
class Load:
    """One load in a fresh process."""

    seconds: float
    cpu_seconds: float
    weight_mb: float
    peak_mb: float  # RssAnon at most, the interpreter included
    threads: int


def write_pth(path: Path, source: Path) -> None:
    """The tensors of a .safetensors file as torch.save lays them out: a zip of storages, each at a
    multiple of 64 bytes, and a pickle that says where they are."""
    with source.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(size))
        table.pop("__metadata__", None)
        opcodes = [b"\x80\x02}("]
        for key, (name, row) in enumerate(table.items()):
            strides, step = [], 1
            for n in reversed(row["shape"]):
                strides.insert(0, step)
                step *= n
            opcodes += [
                *(word(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("),
                *(word("storage"), b"ctorch\nBFloat16Storage\n", word(str(key)), word("cpu")),
                *(number(step), b"tQ", number(0), tuple_of(row["shape"]), tuple_of(strides)),
                b"\x89ccollections\nOrderedDict\n)RtR",
            ]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"".join([*opcodes, b"u."]))
            for key, row in enumerate(table.values()):
                info = zipfile.ZipInfo(f"archive/data/{key}")
                begin, end = row["data_offsets"]
                # A local header takes 30 bytes, the name, and this field of padding.
                fill = -(archive.fp.tell() + 30 + len(info.filename) + 4) % 64
                info.extra = struct.pack("<HH", 0x4246, fill) + b"Z" * fill
                file.seek(8 + size + begin)
                archive.writestr(info, file.read(end - begin))
            archive.writestr("archive/version", "3\n")


def word(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def tuple_of(numbers: list[int]) -> bytes:
    return b"(" + b"".join(map(number, numbers)) + b"t"


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read(path: Path, threads: int) -> tuple[float, float]:
    """(seconds, CPU seconds) to read the whole file into buffers that are used again."""
    size = path.stat().st_size

    def part(i: int) -> None:
        buffer = bytearray(CHUNK)
        with path.open("rb", buffering=0) as file:
            at, end = size * i // threads, size * (i + 1) // threads
            while at < end:
                at += os.preadv(file.fileno(), [memoryview(buffer)[: end - at]], at)

    start, cpu = time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))
    return time.perf_counter() - start, cpu_seconds() - cpu


def read_into_fresh(path: Path, threads: int) -> float:
    """Seconds to read the whole file into memory that nobody has touched, in huge pages."""
    size = path.stat().st_size
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)

    def part(i: int) -> None:
        with path.open("rb", buffering=0) as file:
            at, end = size * i // threads, size * (i + 1) // threads
            while at < end:
                at += os.preadv(file.fileno(), [view[at : min(end, at + CHUNK)]], at)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))
    seconds = time.perf_counter() - start
    view.release()
    memory.close()
    return seconds


def anonymous_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("this kernel does not tell RssAnon")


def load_here(path: Path, strategy: str, threads: int | None) -> Load:
    peak, done = anonymous_mb(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), cpu_seconds()
    model = rn.Model.open(path, strategy=strategy, threads=threads)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    peak = max(peak, anonymous_mb())
    done.set()
    watcher.join()
    return Load(seconds, cpu, model.info.weight_bytes / 1e6, peak, model.info.threads)


def load(path: Path, strategy: str, threads: int | None) -> Load:
    command = [sys.executable, __file__, "--load-one", str(path), "--strategy", strategy]
    command += ["--threads", str(threads)] if threads else []
    return Load(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def run(path: Path, strategy: str, threads: int | None, rounds: int, cold: bool) -> str:
    size = path.stat().st_size / 1e9
    loads, one, many, fresh = [], [], [], []
    for _ in range(rounds):  # in turn: a shared machine is another one every minute
        for action in (
            lambda: one.append(read(path, 1)),
            lambda: many.append(read(path, loads[0].threads if loads else threads or 2)),
            lambda: loads.append(load(path, strategy, threads)),
            lambda: fresh.append(read_into_fresh(path, loads[0].threads)),
        ):
            if cold:
                drop_from_cache(path)
            action()
    speed = size / statistics.median(x.seconds for x in loads)
    reading, sharing = (size / statistics.median(t for t, _ in times) for times in (one, many))
    clearing = size / statistics.median(fresh)
    cpu = size / statistics.median(x.cpu_seconds for x in loads)
    reading_cpu = size / statistics.median(cpu for _, cpu in one)
    peak, weights = max(x.peak_mb for x in loads), loads[0].weight_mb
    verdict = "yes" if peak <= weights + SPARE else "NO"
    return (
        f"| {path.suffix} | {strategy} | {'cold' if cold else 'warm'} | {speed:.2f} "
        f"| {reading:.2f} | {sharing:.2f} | {clearing:.2f} "
        f"| {speed / max(reading, sharing):.0%} | {clearing / speed:.2f} "
        f"| {cpu:.2f} | {reading_cpu:.2f} "
        f"| {weights:.0f} | {peak:.0f} | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a checkpoint instead of random 0.1B weights")
    parser.add_argument("--strategy", action="append", help="default: as stored, and converted")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    strategies = args.strategy or list(STRATEGIES)
    if args.load_one:
        print(json.dumps(asdict(load_here(args.load_one, strategies[0], args.threads))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            paths = [args.model]
        else:
            paths = [Path(folder) / "random.safetensors", Path(folder) / "random.pth"]
            random_model.write(paths[0])
            write_pth(paths[1], paths[0])
        columns = (
            *("file", "strategy", "cache", "load GB/s", "read GB/s", "read, threads"),
            *("into fresh memory", "of reading", "times into fresh"),
            *("load GB / CPU s", "read GB / CPU s", "weights MB"),
            *("peak RssAnon MB", f"≤ weights + {SPARE}"),
        )
        print("| " + " | ".join(columns) + " |")
        print("|" + "---|" * len(columns))
        for path in paths:
            for strategy in strategies:
                for cold in (False, True):
                    read(path, 1)  # into the cache
                    print(run(path, strategy, args.threads, args.rounds, cold), flush=True)
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
