"""The seam between C and Python: the cut of the header, errors, lifetimes, the public names."""

from __future__ import annotations

import gc
import inspect
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rwkv_native as rn
from rwkv_native import _ffi, errors
from rwkv_native._ffi import ffi, lib

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "native" / "include" / "rwkv.h"


# -- the module


def test_everything_between_the_scissors_is_bound() -> None:
    text = HEADER.read_text()
    cut = text[text.index("8< ----") : text.index(">8 ----")]
    names = re.findall(r"^RWKV_API\s[^(]*?(\w+)\(", cut, re.MULTILINE)
    assert len(names) == cut.count("RWKV_API") > 30
    for name in names:
        assert callable(getattr(lib, name)), name


def test_version(capfd) -> None:
    assert f'version = "{rn.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert capfd.readouterr() == ("", "")


def test_the_module_exports_only_its_entry() -> None:
    """A leaked symbol of ours or of libstdc++ would mix with other extensions in the process."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm on this machine")
    from rwkv_native import _rn

    assert _rn.__file__.endswith(".abi3.so")
    done = subprocess.run(
        [nm, "-D", "--defined-only", _rn.__file__], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["PyInit__rn"]


def test_importing_starts_nothing() -> None:
    code = (
        "import os; before = len(os.listdir('/proc/self/task')); import sys, rwkv_native;"
        "print(len(os.listdir('/proc/self/task')) - before,"
        " [m for m in ('web', 'gevent', 'falcon', 'torch', 'rwkv') if m in sys.modules])"
    )
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 []\n"


# -- the bell


def test_the_ring_writes_both_descriptors() -> None:
    bell = ffi.new("rn_bell *")
    bell.watcher, bell.iterators = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    ring = ffi.addressof(lib, "rn_ring")
    for _ in range(3):
        ring(bell)
    try:
        assert os.eventfd_read(bell.watcher) == os.eventfd_read(bell.iterators) == 3
        os.eventfd_write(bell.watcher, 2**64 - 2)  # full: the ring must not block
        ring(bell)
        assert os.eventfd_read(bell.iterators) == 1
    finally:
        os.close(bell.watcher)
        os.close(bell.iterators)


# -- errors


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        (lib.RWKV_INVALID, (rn.InvalidError, ValueError)),
        (lib.RWKV_IO, (rn.FileError, OSError)),
        (lib.RWKV_NO_MEMORY, (rn.OutOfMemoryError, MemoryError)),
        (lib.RWKV_UNSUPPORTED, (rn.UnsupportedError, ValueError)),
        (lib.RWKV_BUSY, (rn.QueueFull,)),
        (lib.RWKV_STOPPED, (rn.Stopped,)),
        (lib.RWKV_INTERNAL, (rn.InternalError, RuntimeError)),
        (-99, (rn.InternalError,)),
    ],
)
def test_statuses_are_exceptions(status: int, kinds: tuple[type, ...]) -> None:
    with pytest.raises(rn.Error) as caught:
        _ffi.check(status)
    assert all(isinstance(caught.value, k) for k in kinds) and str(caught.value)


def test_success_is_silent() -> None:
    _ffi.check(0)


def test_every_error_is_public() -> None:
    ours = {n for n, c in vars(errors).items() if inspect.isclass(c)}
    assert ours <= set(rn.__all__)
    assert all(issubclass(getattr(rn, n), rn.Error) for n in ours)


def test_messages_belong_to_their_thread() -> None:
    """rwkv_last_error is per thread: nobody reads another thread's message."""
    wrong: list[str] = []

    def work(number: int) -> None:
        tokenizer = rn.Tokenizer([b"", b"a"])
        for i in range(300):
            text = "a" * (number * 300 + i) + "b"
            try:
                tokenizer.encode(text)
            except rn.Error as error:
                if f"byte {len(text) - 1}" not in str(error):
                    wrong.append(str(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# -- arguments


@settings(max_examples=300)
@given(st.lists(st.integers(-(2**40), 2**40) | st.booleans(), max_size=20), st.integers(1, 70_000))
def test_ids_arrive_or_are_refused(values: list, limit: int) -> None:
    fits = all(0 <= v < limit for v in values)
    for form in (values, tuple(values), iter(values)):
        try:
            found = list(_ffi.id_array("ids", form, limit))
        except rn.InvalidError as error:
            assert not fits and str(error).startswith("ids")
        else:
            assert fits and found == values


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(min_size=1, max_size=5),
        st.binary(max_size=9),
        st.floats(),
        st.lists(st.floats() | st.text() | st.none() | st.lists(st.integers()), min_size=1),
        st.dictionaries(st.text(min_size=1), st.integers(), min_size=1),
        st.none(),
    )
)
def test_what_is_no_list_of_ids(value: object) -> None:
    with pytest.raises(rn.InvalidError, match=r"^ids"):
        _ffi.id_array("ids", value)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4"])
def test_arrays_of_every_integer_type(dtype: str) -> None:
    assert list(_ffi.id_array("ids", np.array([1, 2, 100], dtype))) == [1, 2, 100]


def test_arrays_of_other_types() -> None:
    assert list(_ffi.id_array("ids", array("h", [1, 2]))) == [1, 2]
    assert list(_ffi.id_array("ids", ffi.new("int32_t[]", [1, 2]))) == [1, 2]
    assert list(_ffi.id_array("ids", np.arange(9, dtype="i4")[::-3])) == [8, 5, 2]
    for wrong in (np.array([1 << 40]), np.array([1 << 63], "u8"), array("b", [-1])):
        with pytest.raises(rn.InvalidError, match="outside"):
            _ffi.id_array("ids", wrong)
    with pytest.raises(rn.InvalidError):
        _ffi.id_array("ids", array("d", [1]))
    for dtype in ("f4", "?", "c8", "O", "U3", "M8[s]"):
        with pytest.raises(rn.InvalidError):
            _ffi.id_array("ids", np.zeros(3, dtype))


def test_ids_are_copied() -> None:
    """Nobody can change them after the check."""
    given = np.array([1, 2], np.int32)
    taken = _ffi.id_array("ids", given)
    given[0] = -1
    assert list(taken) == [1, 2]


def test_floats_are_not_copied() -> None:
    values = np.arange(5, dtype=np.float32)
    pointer = _ffi.float_pointer(values)
    assert int(ffi.cast("uintptr_t", pointer)) == values.ctypes.data
    pointer[2] = 7
    assert values[2] == 7


# -- lifetimes


def test_what_c_reads_outlives_the_call(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    """Requests of every field, with the collector running between and the arguments gone."""
    rng = random.Random(1)
    with rn.Engine(small_model, byte_tokenizer) as engine:
        ids = set()
        for i in range(200):
            ids.add(
                engine.submit(
                    "x" * rng.randrange(1, 30),
                    rn.Sampling(
                        max_tokens=rng.randrange(1, 8),
                        seed=i,
                        stop=["".join(rng.choices("abcé", k=4)) for _ in range(rng.randrange(5))],
                        stop_token_ids=rng.sample(range(257), rng.randrange(9)),
                        logit_bias={rng.randrange(257): rng.random() for _ in range(9)},
                        forbidden_token_ids=rng.sample(range(257), 20),
                        no_repeat_token_ids=rng.sample(range(257), 20),
                        exempt_token_ids=rng.sample(range(257), 20),
                        global_penalty=True,
                        frequency_penalty=0.5,
                        logprobs=rng.randrange(5),
                    ),
                    state=small_model.forward([i % 257])[1] if i % 3 else None,
                )
            )
            if i % 20 == 0:
                gc.collect()
        while ids:
            for event in engine.poll():
                assert event.error is None
                if event.finish_reason is not None:
                    ids.discard(event.id)


def test_an_engine_keeps_its_model(golden: Path) -> None:
    engine = rn.Engine(
        rn.Model.open(golden / "v70_L3_D32_fp32.pth"),
        rn.Tokenizer([b"", *(bytes([b]) for b in range(256))]),
    )
    gc.collect()
    sampling = rn.Sampling(max_tokens=5, end_token_ids=())
    assert sum(len(e.token_ids) for e in engine.generate("x", sampling)) == 5
    engine.close()


def test_memory_does_not_grow(small_model: rn.Model) -> None:
    """A state of this model has 7 KB; leaking one per call would show as 70 MB."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def work(n: int) -> None:
        state = None
        for i in range(n):
            _, state = small_model.forward([i % 257], state)
        rn.State.from_numpy(small_model, state.to_numpy())

    work(1000)
    before = resident()
    work(10_000)
    assert resident() - before < 20 << 20


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    tokens=st.lists(st.integers(0, 256), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 39), max_size=5),
)
def test_any_tokens_in_any_pieces(
    small_model: rn.Model, tokens: list[int], cuts: list[int]
) -> None:
    whole, end = small_model.forward(tokens, full=True)
    bounds = sorted({0, len(tokens), *(c for c in cuts if c < len(tokens))})
    state, rows = None, []
    for a, b in itertools.pairwise(bounds):
        logits, state = small_model.forward(tokens[a:b], state, full=True)
        rows.append(logits)
    scale = np.abs(whole).max()
    assert np.abs(np.concatenate(rows) - whole).max() <= 1e-5 * scale
    for name, value in state.to_numpy().items():
        expected = end.to_numpy()[name]
        assert np.abs(value - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


# -- the public names


def test_public_names() -> None:
    assert rn.__all__ == sorted(rn.__all__)
    assert all(hasattr(rn, name) for name in rn.__all__)
    assert (Path(rn.__file__).parent / "py.typed").exists()


def public_members() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name in rn.__all__:
        thing = getattr(rn, name)
        found.append((name, thing))
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                function = value.fget if isinstance(value, property) else value
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and not member.startswith("_"):
                    found.append((f"{name}.{member}", function))
    return found


@pytest.mark.parametrize(("name", "thing"), public_members(), ids=[n for n, _ in public_members()])
def test_every_public_name_is_documented_and_annotated(name: str, thing: object) -> None:
    assert (inspect.getdoc(thing) or "").strip(), f"{name} has no docstring"
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty, name
        for parameter in list(signature.parameters.values()):
            if parameter.name not in ("self", "cls"):
                assert parameter.annotation is not inspect.Parameter.empty, f"{name} {parameter}"


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (rn.Model.open, ["path", "strategy", "threads", "progress", "state_type", "adapter"]),
        (rn.Model.load, ["path", "strategy", "threads", "state_type", "adapter"]),
        (rn.Model.forward, ["self", "tokens", "state", "full"]),
        (rn.Model.load_tuned_state, ["self", "path"]),
        (rn.State.to_numpy, ["self"]),
        (rn.State.from_numpy, ["model", "arrays"]),
        (rn.State.save, ["self", "path"]),
        (rn.State.load, ["model", "path"]),
        (rn.Tokenizer.world, []),
        (rn.Tokenizer.for_model, ["model"]),
        (rn.Tokenizer.encode, ["self", "text"]),
        (rn.Tokenizer.decode, ["self", "ids"]),
        (rn.Tokenizer.decode_bytes, ["self", "ids"]),
        (
            rn.Engine.submit,
            [
                *("self", "prompt", "sampling", "state", "speculate", "save_at", "stream"),
                *("n", "keep_state", "mask", "client", "group", "options"),
            ],
        ),
        (
            rn.Engine.generate,
            [
                *("self", "prompt", "sampling", "state", "speculate", "save_at"),
                *("keep_state", "mask", "client", "group", "options"),
            ],
        ),
        (rn.Engine.score, ["self", "prompt", "state"]),
        (rn.Engine.submit_score, ["self", "prompt", "state", "top", "client", "group"]),
        (rn.Engine.poll, ["self"]),
        (rn.Engine.fileno, ["self"]),
        (rn.Engine.cancel, ["self", "id"]),
        (rn.probabilities, ["logits", "sampling"]),
        (rn.demo_model, []),
        (rn.cpu_isa, []),
    ],
    ids=lambda x: getattr(x, "__qualname__", ""),
)
def test_the_contract(call: object, parameters: list[str]) -> None:
    """Design section 6: tests outside this repository use these names."""
    assert list(inspect.signature(call).parameters) == parameters


def test_the_demo_model() -> None:
    path = rn.demo_model()
    model = rn.Model.open(path)
    assert model.info.metadata["rwkv.tokenizer"] == "world-bytes"
    assert model.info.metadata["rwkv.family"] == "world"
    tokenizer = rn.Tokenizer.for_model(model)
    assert tokenizer.name == "world-bytes"
    with rn.Engine(model, tokenizer) as engine:
        sampling = rn.Sampling(temperature=0, max_tokens=40, stop=["\n\nUser"])
        answer = "".join(e.text for e in engine.generate("User: Hello\n\nAssistant:", sampling))
    assert answer.strip().isprintable() and len(answer) > 3
