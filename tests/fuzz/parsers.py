"""What fuzzing asks of each parser of ours that is written in Python.

An input is read, or refused by an rn.Error or a MidiError with a short, printable reason; in
bounded time; and nothing is run, opened or reached that is not the input. TARGETS maps a name to
the function that judges one input: it raises AssertionError, or whatever escaped from the parser.
Called by fuzz_checkpoints.py, which looks for inputs, and by test_replay.py, which repeats those in
corpus/.
"""

from __future__ import annotations

import atexit
import encodings.cp437
import encodings.unicode_escape
import functools
import os
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

import rwkv_native as rn
from rwkv_native import adapters, checkpoint, convert, state
from rwkv_native.formats.tensor import DTYPES, nbytes_of
from rwkv_native.tokenizers import huggingface
from web.midi.limits import MidiError
from web.midi.transcript import NothingHeard, midi_to_text
from web.midi.writer import text_to_midi

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "data"
CORPUS = Path(__file__).resolve().parent / "corpus"
sys.path.insert(0, str(ROOT / "tests" / "attacks"))
from writers import GOOD_PICKLE, archive, legacy, pickled  # noqa: E402

# What parsers import when they first need it, so that no input is blamed for it.
EARLY = (encodings.cp437, encodings.unicode_escape, huggingface, tokenizers)

SECONDS = 5.0  # of a core, for one input of a few KB; a hundredth is usual
ELEMENTS = 1 << 16  # tensors up to here are read

# -- what an input may do

# Events of Python's own audit that mean that something was run or reached.
RUNS = {
    "ctypes.dlopen", "exec", "import", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
    "os.remove", "os.rename", "os.spawn", "os.system", "pickle.find_class", "pty.spawn",
    "shutil.rmtree", "socket.connect", "socket.getaddrinfo", "subprocess.Popen",
}  # fmt: skip
_watched: list[str] | None = None  # breaches of the input that is judged now
_folder = ""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open":
        path = arguments[0]
        outside = isinstance(path, str) and not path.startswith(_folder)
        if not outside and "w" not in str(arguments[1] or ""):
            return
    elif event not in RUNS:
        return
    _watched.append(f"{event} {str(arguments)[:200]}")
    raise AssertionError(_watched[-1])


sys.addaudithook(_watch)


@functools.cache
def workplace() -> Path:
    """A folder of this process, in memory where that is possible."""
    shared = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="rwkv-fuzz-", dir=shared if os.access(shared, os.W_OK) else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@contextmanager
def judged(folder: Path) -> Iterator[None]:
    """Nothing but a known error with a sound message leaves the block, and nothing is run in it."""
    global _watched, _folder
    _folder, _watched = str(folder), []
    start = time.process_time()
    try:
        yield
    except (rn.Error, MidiError) as error:
        message = str(error)
        assert "damaged file (" not in message, message  # the last line of defence was needed
        assert message.isprintable() and len(message) < len(str(folder)) + 1000, message[:2000]
    finally:
        breaches, _watched = _watched, None
        assert not breaches, breaches
    took = time.process_time() - start
    assert took < SECONDS, f"{took:.1f} s"


# -- checkpoints


def sound(found: checkpoint.Checkpoint) -> None:
    """Every tensor lies within its file, and the file holds all that its shape promises."""
    for name, tensor in found.tensors.items():
        size = Path(tensor.path).stat().st_size
        assert name == tensor.name and len(name) > 0 and name.isprintable()
        assert tensor.offset >= 0 and tensor.nbytes > 0 and tensor.offset + tensor.nbytes <= size
        assert nbytes_of(tensor.dtype, tensor.count) <= tensor.nbytes
        if tensor.count <= ELEMENTS and tensor.dtype in DTYPES:  # blocks are for the engine
            assert tensor.to_numpy().shape == tensor.shape
    for key, value in found.metadata.items():
        assert type(key) is str and type(value) is str
    _ = found.version


def read(path: Path, then: Callable[[Path], object] | None = None) -> None:
    with judged(path.parent):
        found = checkpoint.read(path)
        sound(found)
        if found.tokenizer_tokens is not None:
            tokenizer = rn.Tokenizer([b"", *found.tokenizer_tokens[1:]])
            tokenizer.decode_bytes(range(tokenizer.vocab_size))
    if then is not None:
        with judged(path.parent):
            then(path)


def written(raw: bytes, name: str = "input.bin") -> Path:
    path = workplace() / name
    path.write_bytes(raw)
    return path


def file(raw: bytes) -> None:
    """Any file: told by its content."""
    read(written(raw))


@functools.lru_cache(1000)
def envelope(size: int) -> tuple[bytes, bytes]:
    """What stands before and after a pickle of so many bytes in a sound zip."""
    raw = archive(bytes(size), numbers=bytes(range(96)))
    start = raw.index(b"archive/data.pkl") + len(b"archive/data.pkl")
    return raw[:start], raw[start + size :]


def pickle(raw: bytes) -> None:
    """The pickle of a .pth whose zip is sound, so that no input is wasted on offsets."""
    before, after = envelope(len(raw))
    read(written(before + raw + after), lambda path: state.tuned_wkv(path, (1, 1, 2, 3)))


def chain(raw: bytes) -> None:
    """The fourth pickle of a .pth before 1.6, which holds the tensors, and all that follows."""
    good = legacy(pickled(b"N"))
    head = good[: good.index(pickled(b"N"))]
    read(written(head + raw))


def framed(raw: bytes) -> bytes:
    """A header; after the first new line the data, zeros up to where the header says it ends."""
    header, _, data = raw.partition(b"\n")
    ends = [int(n) for n in re.findall(rb"\[\d+, ?(\d{1,6})\]", header)]
    data = data.ljust(max(ends, default=0), b"\0")
    return struct.pack("<Q", len(header)) + header + data


def safetensors(raw: bytes, then: Callable[[Path], object] | None = None) -> None:
    """A header, and data as framed() makes it."""
    read(written(framed(raw)), then)


def index(raw: bytes) -> None:
    """An index.json and, after the first zero byte, a config.json, in a folder with good files."""
    folder = workplace() / "folder"
    if not folder.exists():
        folder.mkdir()
        (folder / "a.bin").write_bytes(archive(GOOD_PICKLE))
        (folder / "b.bin").write_bytes(legacy(GOOD_PICKLE.replace(b"emb.", b"abc.")))
        checkpoint.write_safetensors(folder / "c.bin", {}, {})
    names, _, about = raw.partition(b"\0")
    (folder / "model.safetensors.index.json").write_bytes(names)
    (folder / "config.json").write_bytes(about)
    read(folder)


# -- adapters


@functools.cache
def base() -> checkpoint.Checkpoint:
    return checkpoint.read(GOLDEN / "v70_L3_D32_fp32.pth")


def adapter(raw: bytes) -> None:
    """A line of adapter_config.json, a line of a header, and data as above. What is merged gives
    finite numbers or is refused where rows are read."""
    found = base()
    folder = workplace() / "adapter"
    folder.mkdir(exist_ok=True)
    config, _, rest = raw.partition(b"\n")
    (folder / adapters.CONFIG).write_bytes(config)
    written(framed(rest), "adapter/adapter_model.safetensors")
    with judged(folder):
        merged = adapters.merged(found, rn.Adapter(folder))
        assert merged.changes
        for name, changes in merged.changes.items():
            rows = np.zeros((1, found.tensors[name].shape[1]), np.float32)
            convert._changed(rows, 0, found.tensors[name], changes)


# -- states


@functools.cache
def model() -> rn.Model:
    return rn.Model.open(GOLDEN / "v70_L3_D32_fp32.pth", "cpu fp32", threads=1)


def saved_state(raw: bytes) -> None:
    """A state as State.save writes it, or a tuned one, for a model that exists."""
    loaded = model()
    safetensors(raw, lambda path: rn.State.load(loaded, path))
    with judged(workplace()):
        state.tuned_state(loaded, workplace() / "input.bin")


# -- tokenizers


def world_list(raw: bytes) -> None:
    """A vocabulary in the form of World's file."""
    path = written(raw, "input.txt")
    with judged(path.parent):
        tokenizer = rn.Tokenizer.open(path)
        assert tokenizer.vocab_size <= 1 << 20
        some = range(min(tokenizer.vocab_size, 300))
        everything = tokenizer.decode_bytes(some)
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(everything)) == everything
        ids = tokenizer.encode_bytes(raw)
        assert tokenizer.decode_bytes(ids) == raw


def tokenizer_json(raw: bytes) -> None:
    """A tokenizer.json, or the parameters of REMI."""
    path = written(raw, "input.json")
    with judged(path.parent):
        tokenizer = rn.Tokenizer.open(path)
        ids = tokenizer.encode("User: a\u00e9\n\n\U0001f600 17")
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        tokenizer.decode(ids)
        tokenizer.decode_bytes(ids)
        tokenizer.decode(range(min(tokenizer.vocab_size, 300)))


# -- music


def midi_file(raw: bytes) -> None:
    """A MIDI file; what is heard in it can be written again."""
    heard = ""
    with judged(workplace()):
        heard = midi_to_text(raw)
    text_to_midi(heard)


def notes(raw: bytes) -> None:
    """A text of notes; what is written can be read again, if there is something to hear."""
    made = None
    with judged(workplace()):
        made = text_to_midi(raw.decode("utf-8", "replace"))
    if made is not None:
        with suppress(NothingHeard):
            midi_to_text(made)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "file": file,
    "pickle": pickle,
    "chain": chain,
    "safetensors": safetensors,
    "index": index,
    "adapter": adapter,
    "state": saved_state,
    "world_list": world_list,
    "tokenizer_json": tokenizer_json,
    "midi_file": midi_file,
    "notes": notes,
}
