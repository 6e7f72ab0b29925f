"""Conversion: exact where the types allow it, rounded right where not, whole files or none."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import layouts, safetensors
from web.cli import main

SOURCES = {"F32": "v70_L3_D32_fp32", "F16": "v70_L4_D32_fp16", "BF16": "v70_L2_D64_bf16"}
HALVES = {"fp16": "F16", "bf16": "BF16"}


def arrays(path: Path) -> dict[str, np.ndarray]:
    found = checkpoint.read(path)
    return {n: t.to_numpy().astype(np.float64) for n, t in found.tensors.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def types(path: Path) -> set[str]:
    return {t.dtype for t in checkpoint.read(path).tensors.values()}


@pytest.mark.parametrize("dtype", SOURCES)
def test_the_own_type_is_exact(dtype: str, golden: Path, tmp_path: Path) -> None:
    source, target = golden / f"{SOURCES[dtype]}.pth", tmp_path / "x.safetensors"
    convert.to_safetensors(source, target)
    assert types(target) == {dtype} and same(arrays(source), arrays(target))
    found = checkpoint.read(target)
    assert (found.format, found.layout) == ("safetensors", layouts.OFFICIAL)
    assert found.metadata == {
        "format": "pt",
        "rwkv.version": "7",
        "rwkv.source": "pth, official",
    }
    a, b = (rn.Model.open(p).forward([1, 2, 3])[0] for p in (source, target))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_halves_through_fp32_and_back(dtype: str, golden: Path, tmp_path: Path) -> None:
    source = golden / f"{SOURCES[dtype]}.pth"
    wide, back = tmp_path / "wide.safetensors", tmp_path / "back.safetensors"
    convert.to_safetensors(source, wide, "fp32")
    assert types(wide) == {"F32"} and same(arrays(source), arrays(wide))
    convert.to_safetensors(wide, back, next(k for k, v in HALVES.items() if v == dtype))
    assert types(back) == {dtype} and same(arrays(source), arrays(back))


def test_rounding_to_halves(golden: Path, tmp_path: Path) -> None:
    source = golden / f"{SOURCES['F32']}.pth"
    exact = arrays(source)
    for dtype, bits, smallest in (("fp16", 11, 2.0**-24), ("bf16", 8, 0.0)):
        target = tmp_path / f"{dtype}.safetensors"
        convert.to_safetensors(source, target, dtype)
        for name, found in arrays(target).items():
            bound = np.maximum(np.abs(exact[name]) * 2.0**-bits, smallest / 2)
            assert (np.abs(found - exact[name]) <= bound).all(), name


def test_bfloat16_rounds_to_nearest_even() -> None:
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, 200_000, np.uint32)
    ties = rng.integers(0, 2**16, 20_000, np.uint32) << 16 | 0x8000
    values = np.concatenate([bits, ties, ties ^ 1, ties - 1]).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.3e38)]
    found = convert.to_bf16(values)
    down = values.view(np.uint32) >> 16
    low, high = ((b.astype(np.uint32) << 16).view(np.float32) for b in (down, down + 1))
    with np.errstate(over="ignore", invalid="ignore"):
        to_low = np.abs(values.astype(np.float64) - low.astype(np.float64))
        to_high = np.abs(high.astype(np.float64) - values.astype(np.float64))
    up = (to_high < to_low) | ((to_high == to_low) & (down % 2 == 1))
    assert np.array_equal(found, (down + up).astype(np.uint16))
    special = convert.to_bf16(np.float32([0, -0.0, 1, -2.5, 2.0**-133]))
    assert special.tolist() == [0, 0x8000, 0x3F80, 0xC020, 1]


def test_the_data_is_aligned_and_contiguous(golden: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    convert.to_safetensors(golden / "v70_L2_D64_bf16.pth", target)
    found = checkpoint.read(target).tensors.values()
    assert all(t.offset % 64 == 0 for t in found if t.nbytes % 64 == 0)
    assert min(t.offset for t in found) % 64 == 0
    assert all(t.is_contiguous and t.scale == 1 for t in found)


@pytest.mark.parametrize(
    "kind", ["legacy.pth", "views.pth", "wrapped.pth", "st", "fla.safetensors"]
)
def test_every_layout_becomes_the_official_one(
    kind: str, golden: Path, shared: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.safetensors"
    convert.to_safetensors(shared / "golden" / "formats" / f"v70_L4_D32_fp16.{kind}", target)
    found, wanted = arrays(target), arrays(golden / "v70_L4_D32_fp16.pth")
    assert all(np.array_equal(a.ravel(), wanted[n].ravel()) for n, a in found.items())
    assert wanted.keys() - found.keys() <= {f"blocks.0.att.v{i}" for i in range(3)}


def test_mixed_types_are_kept(tmp_path: Path, golden: Path) -> None:
    source, target = tmp_path / "mixed.safetensors", tmp_path / "x.safetensors"
    wide = checkpoint.read(golden / "v70_L3_D32_fp32.pth").tensors
    rows, body = [], b""
    for i, (name, tensor) in enumerate(wide.items()):
        kind, stored = (("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"))[i % 3]
        rows.append((name, kind, tensor.shape))
        body += tensor.to_numpy().astype(stored).tobytes()
    source.write_bytes(safetensors.header(rows, {}) + body)
    convert.to_safetensors(source, target)
    assert types(target) == {"F16", "F32", "F64"} and same(arrays(source), arrays(target))


def test_what_a_type_cannot_hold_is_refused(golden: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    given = checkpoint.read(golden / "v70_L3_D32_fp32.pth").tensors
    changed = {n: t.to_numpy() for n, t in given.items()}
    changed["blocks.1.att.key.weight"][2, 3] = -1e5
    checkpoint.write_safetensors(source, changed, {})
    target.write_bytes(b"before")
    words = r"blocks\.1\.att\.key\.weight has values up to 1e\+05, which F16 cannot hold.*bf16"
    with pytest.raises(rn.CheckpointError, match=words):
        convert.to_safetensors(source, target, "fp16", force=True)
    assert target.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 2
    convert.to_safetensors(source, target, "bf16", force=True)


def test_memory_stays_small(golden: Path, tmp_path: Path, monkeypatch) -> None:
    source, target = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    given = checkpoint.read(golden / "v70_L3_D32_fp32.pth").tensors
    large = {n: t.to_numpy() for n, t in given.items()}
    for name in ("emb.weight", "head.weight"):
        large[name] = np.ones((65536, 32), np.float32)  # 8 MB
    checkpoint.write_safetensors(source, large, {})
    del large
    monkeypatch.setattr(convert, "PIECE", 1 << 18)
    for write in (convert.to_safetensors, convert.to_gguf):
        tracemalloc.start()
        write(source, target, "bf16", force=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The words of a World vocabulary, which a GGUF of so many rows carries, take their own.
        assert peak < (4 << 20 if write is convert.to_safetensors else 40 << 20)
    assert target.stat().st_size > 8 << 20


def test_progress(golden: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "x.safetensors"
    convert.to_safetensors(
        golden / "v70_L3_D32_fp32.pth", target, progress=lambda *p: seen.append(p)
    )
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})
    assert seen[-1][0] == seen[-1][1] and len({t for _, t in seen}) == 1


def test_wrong_requests(golden: Path, tmp_path: Path) -> None:
    source, target = golden / "v70_L3_D32_fp32.pth", tmp_path / "x.safetensors"
    with pytest.raises(rn.InvalidError, match="dtype must be one of fp32, fp16, bf16"):
        convert.to_safetensors(source, target, "int8")
    target.write_bytes(b"")
    with pytest.raises(rn.InvalidError, match="exists already"):
        convert.to_safetensors(source, target)
    convert.to_safetensors(source, target, force=True)
    with pytest.raises(rn.InvalidError, match="the source itself"):
        convert.to_safetensors(target, target, force=True)
    with pytest.raises(rn.InvalidError, match="is a folder"):
        convert.to_safetensors(source, tmp_path, force=True)
    with pytest.raises(FileNotFoundError):
        convert.to_safetensors(tmp_path / "nothing", target, force=True)
    with pytest.raises(rn.InvalidError, match=r"there is no folder .*nowhere"):
        convert.to_safetensors(source, tmp_path / "nowhere" / "x.safetensors")
    with pytest.raises(rn.InvalidError, match="not 'i4'; GGUF files of it are not written"):
        convert.to_gguf(source, tmp_path / "x.gguf", "i4")
    state = tmp_path / "state.safetensors"
    rn.Model.open(source).zero_state().save(state)
    with pytest.raises(rn.CheckpointError, match="no RWKV of a known version"):
        convert.to_safetensors(state, tmp_path / "y.safetensors")
    with pytest.raises(rn.UnsupportedError, match="no form for"):
        convert.to_gguf(state, tmp_path / "y.gguf")


def test_tuned_states_are_converted(golden: Path, tmp_path: Path, shared: Path) -> None:
    target = tmp_path / "state.safetensors"
    convert.to_safetensors(
        shared / "golden" / "formats" / "v70_L3_D32_fp32_state.state.st", target, "fp32"
    )
    assert checkpoint.read(target).metadata["rwkv.kind"] == "tuned-state"
    wanted = arrays(golden / "v70_L3_D32_fp32_state.state.pth")
    assert same(arrays(target), {n: a.astype(np.float16) for n, a in wanted.items()})


def test_the_vocabulary_follows(golden: Path, tmp_path: Path) -> None:
    """A GGUF of 257 rows carries single bytes as words; .safetensors names them again."""
    path, back = tmp_path / "x.gguf", tmp_path / "x.safetensors"
    convert.to_gguf(golden / "v70_L3_D32_fp32.pth", path)
    model = rn.Model.open(path)
    assert model.tokenizer_tokens == [b"", *(bytes([b]) for b in range(256))]
    text = "Hello, 世界\n"
    assert rn.Tokenizer.for_model(model).encode(text) == rn.Tokenizer.world_bytes().encode(text)
    convert.to_safetensors(path, back)
    assert checkpoint.read(back).metadata["rwkv.tokenizer"] == "world-bytes"
    assert rn.Model.open(back).tokenizer_tokens is None


# -- the command


def test_the_command(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(golden / "v70_L3_D32_fp32.pth"), tmp_path / "x.safetensors"
    assert main(["convert", source, str(target), "--dtype", "bf16"]) == 0
    assert capsys.readouterr().out == f"{target}: {target.stat().st_size:,} bytes\n"
    assert types(target) == {"BF16"}
    assert main(["convert", source, str(target)]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert main(["convert", source, str(target), "--force"]) == 0
    assert types(target) == {"F32"}
    assert main(["convert", source, str(tmp_path / "x.bin")]) == 2
    assert "must end in .safetensors or .gguf" in capsys.readouterr().err


def test_info_of_every_format(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = golden / "v70_L3_D32_fp32.pth"
    convert.to_gguf(source, tmp_path / "x.gguf")
    convert.to_safetensors(source, tmp_path / "x.safetensors")
    for path, form in [
        (source, "pth"),
        (tmp_path / "x.gguf", "gguf, names of GGUF rwkv7"),
        (tmp_path / "x.safetensors", "safetensors"),
    ]:
        assert main(["info", "--json", str(path)]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["format"], facts["version"]) == (form, "RWKV-7")
        assert (facts["layers"], facts["vocabulary"]) == (3, 257)
        assert (facts["heads"], facts["head_size"]) == (2, 16)
        words = ", 257 ids from the file" if path.suffix == ".gguf" else ""
        assert facts["tokenizer"].endswith(words or "world-bytes")
    assert main(["info", str(golden / "v70_L3_D32_fp32_state.state.pth")]) == 0
    assert "none: a tuned state" in capsys.readouterr().out
