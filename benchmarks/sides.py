"""The two sides of a comparison: models in files, and the processes that run them.

Owns what benchmarks/peers.py and its tables share: the random models and their conversions, the
peers' environments, the runners, and what a step must cost at least. Prints no table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from select import select

import limits
import load
import random_model

import rwkv_native as rn
from rwkv_native import convert

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "build" / "peers"
LLAMA = "llama-cpp-python==0.3.36"
PACKAGES = (LLAMA, "pyrwkv-tokenizer==0.9.1")
PATIENCE = 120.0  # seconds that one measurement may take

SHAPES = {
    "0.1B": random_model.Shape(),
    "0.4B": random_model.Shape(layers=24, width=1024, ffn=4096),
    "1.5B": random_model.Shape(24, 2048, 8192, rank_w=96, rank_a=96, rank_v=64, rank_g=256),
}


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
class Cost:
    """What a model must at least read and compute."""

    weights: int  # bytes that a step reads, at any batch size
    state: int  # bytes of one sequence's state, read and written
    token: int  # operations of one token with its logits
    head: int  # the part of them that the logits take

    def seconds(
        self, seen: limits.Limits, strategy: str, steps: int, batch: int, prompt: int = 0
    ) -> float:
        """At least, by the slower of memory and arithmetic: so many steps of a batch whose every
        sequence draws a token in each, after prompt tokens that need no logits."""
        moved = steps * (self.weights + 2 * batch * self.state)
        computed = batch * (steps * self.token + prompt * (self.token - self.head))
        return max(moved / seen.read.best, computed / seen.peak(strategy)) / 1e9


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the files lie, who runs them, and how often."""

    folder: Path
    llama: Path  # a Python that has PACKAGES
    torch: Path | None  # one that has torch and rwkv
    server: str | None  # llama-server, if it need not be built
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
            random_model.write(part, SHAPES[model], silent=broken_ids())
        elif form == "pth":
            load.write_pth(part, self.file(model, "safetensors"))
        elif form == "BF16":
            convert.to_gguf(self.file(model, "safetensors"), part, "bf16", force=True)
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

    def cost(self, model: str, strategy: str) -> Cost:
        with self.ours(model, strategy) as runner:
            return Cost(**runner.ask("cost"))

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


def broken_ids() -> Sequence[int]:
    """Ids of the World vocabulary that end a text or are no whole, visible characters.

    Models that never draw them give the same number of readable tokens on every server.
    """
    tokenizer = rn.Tokenizer.world()
    broken = [0, *range(tokenizer.vocab_size, SHAPES["0.1B"].vocab)]
    for i in range(1, tokenizer.vocab_size):
        text = tokenizer.decode_bytes([i]).decode(errors="replace")
        if not text.isprintable() or "\ufffd" in text:
            broken.append(i)
    return broken


def llama_python(given: str | None, folder: Path) -> Path:
    """A Python that has PACKAGES: the one that is named, or one made here."""
    if given:
        return Path(given)
    python = folder / "llama" / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(PACKAGES)} (minutes)", file=sys.stderr, flush=True)
        venv.create(folder / "llama", with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        except BaseException:
            python.unlink()  # so that the next run tries again
            raise
    return python


def llama_server(given: str | None, folder: Path) -> Path:
    """llama-server: the one that is named, or one built here."""
    if given:
        return Path(given)
    program = folder / "llama-server" / "bin" / "llama-server"
    if not program.exists():
        print(f"building llama-server of {LLAMA} (minutes)", file=sys.stderr, flush=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        source = ["--no-binary", "llama-cpp-python", "--dest", folder, LLAMA]
        subprocess.run([*download, *source], check=True)
        (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        tools = Path(sys.executable).parent
        root = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
        options = ("TESTS", "EXAMPLES", "APP")
        off = [f"-DLLAMA_BUILD_{name}=OFF" for name in options]
        off += ["-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DBUILD_SHARED_LIBS=OFF"]
        build = folder / "llama-server"
        configure = [tools / "cmake", "-S", root, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *off]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
        make = [tools / "cmake", "--build", build, "--target", "llama-server"]
        subprocess.run([*make, "--parallel", str(os.cpu_count())], check=True)
    return program
