"""Every input of corpus/ again, through the parser that it is for: those that our writers make and
those that fuzzing found. A search for new ones is test_fuzz.py, in `make soak`."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import parsers
import pytest
from native_builds import KINDS, SOAK, Kind, reason_to_skip

import native
import rwkv_native as rn
from rwkv_native import checkpoint

FOR_FUZZING = [kind for kind in KINDS if kind.fuzz and (SOAK or not kind.soak)]


def inputs(target: str) -> list[Path]:
    return sorted((parsers.CORPUS / target).iterdir())


@pytest.mark.parametrize("target", parsers.TARGETS)
def test_parsers_in_python(target: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    paths = inputs(target)
    assert paths
    for path in paths:
        try:
            parsers.TARGETS[target](path.read_bytes())
        except Exception as problem:
            problem.add_note(f"the input: {path}")
            raise
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 512 << 10, f"{grown} KiB"


@pytest.mark.timeout(1500)
@pytest.mark.compiled(*FOR_FUZZING)
@pytest.mark.parametrize("target", native.TARGETS)
def test_parsers_in_cpp(target: str, compiled: Callable[[Kind], None]) -> None:
    """In soak runs under AddressSanitizer, if the compiler has it."""
    kind = next(kind for kind in reversed(FOR_FUZZING) if reason_to_skip(kind) is None)
    compiled(kind)
    programs = kind.folder / "tests" / "fuzz"
    paths = inputs(target)
    assert paths
    done = native.run([str(programs / target), *map(str, paths)], 300)
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"replayed {len(paths)}" in done.stdout


# -- the judges can tell


def test_good_inputs_are_read() -> None:
    """Else everything would be refused at the door, and nothing would be tested."""
    for target, name in (("pickle", "good"), ("chain", "good"), ("safetensors", "good"),
                         ("file", "gguf"), ("index", "good")):  # fmt: skip
        parsers.TARGETS[target]((parsers.CORPUS / target / f"seed-{name}").read_bytes())
        folder = parsers.workplace() / "folder"
        path = folder if target == "index" else parsers.workplace() / "input.bin"
        assert checkpoint.read(path).tensors, target
    for name, reader in (
        ("saved", rn.State.load),
        ("tuned", lambda model, path: model.load_tuned_state(path)),
    ):
        parsers.saved_state((parsers.CORPUS / "state" / f"seed-{name}").read_bytes())
        assert reader(parsers.model(), parsers.workplace() / "input.bin")
    for target, name, suffix in (
        ("world_list", "good", "txt"),
        ("tokenizer_json", "bpe-bytes", "json"),
    ):
        raw = (parsers.CORPUS / target / f"seed-{name}").read_bytes()
        path = parsers.written(raw, f"input.{suffix}")
        assert rn.Tokenizer.open(path).vocab_size > 2


@pytest.mark.parametrize(
    "breach",
    [
        lambda folder: os.system("true"),
        lambda folder: exec("1"),
        lambda folder: Path(__file__).read_bytes(),
        lambda folder: (folder / "new").write_bytes(b""),
        lambda folder: 1 / 0,
        lambda folder: [][0],
    ],
    ids=["system", "exec", "another file", "a file written", "an exception", "another exception"],
)
def test_what_an_input_may_not_do_is_seen(breach, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ArithmeticError, LookupError)), parsers.judged(tmp_path):
        breach(tmp_path)
    assert not list(tmp_path.iterdir())
