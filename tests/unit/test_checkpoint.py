"""The index of good files: every container gives the same tensors, at the right bytes."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint
from rwkv_native.formats import atomic_file

SOURCE = "v70_L4_D32_fp16.pth"


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: t.to_numpy() for name, t in checkpoint.read(path).tensors.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def test_pth(golden: Path) -> None:
    found = checkpoint.read(golden / SOURCE)
    assert len(found.tensors) == 138 and found.metadata == {}
    emb = found.tensors["emb.weight"]
    assert (emb.dtype, emb.shape, emb.strides) == ("F16", (100, 32), (32, 1))
    assert emb.nbytes == 100 * 32 * 2 and emb.offset % 64 == 0
    assert emb.path == str(golden / SOURCE)
    raw = (golden / SOURCE).read_bytes()[emb.offset : emb.offset + emb.nbytes]
    assert emb.to_numpy().tobytes() == raw


def test_safetensors_equals_pth(golden: Path) -> None:
    assert same(arrays(golden / SOURCE), arrays(golden / "v70_L4_D32_fp16.safetensors"))


@pytest.mark.parametrize("kind", ["legacy.pth", "ordered.pth", "views.pth", "wrapped.pth"])
def test_other_containers_equal_pth(kind: str, golden: Path, shared: Path) -> None:
    other = shared / "golden" / "formats" / f"v70_L4_D32_fp16.{kind}"
    assert same(arrays(golden / SOURCE), arrays(other))
    if kind == "views.pth":
        strides = [t.strides for t in checkpoint.read(other).tensors.values()]
        assert any(len(s) == 2 and s[0] == 1 and s[1] > 1 for s in strides), "no transposed view"


def test_every_golden_file_is_read(shared: Path) -> None:
    files = sorted((shared / "golden").glob("*.pth"))
    assert len(files) > 10
    for path in files:
        assert all(np.isfinite(a).all() for a in arrays(path).values())


def test_half_precision_is_exact(golden: Path) -> None:
    tensors = checkpoint.read(golden / "v70_L2_D64_bf16.pth").tensors
    assert {t.dtype for t in tensors.values()} == {"BF16"}
    emb = tensors["emb.weight"]
    stored = np.fromfile(emb.path, "<u2", emb.nbytes // 2, offset=emb.offset)
    found = emb.to_numpy()
    assert found.dtype == np.float32
    assert np.array_equal((found.view(np.uint32) >> 16).ravel(), stored)
    assert not (found.view(np.uint32) & 0xFFFF).any()


def write_json_safetensors(path: Path, names: list[str], metadata: object = None) -> None:
    header: dict[str, object] = {
        n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]}
        for i, n in enumerate(names)
    }
    if metadata is not None:
        header["__metadata__"] = metadata
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8 * len(names)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.emb", "model.head"], ["emb", "head"]),
        (["module.model.emb", "module.model.head"], ["emb", "head"]),
        (["_forward_module.emb"], ["emb"]),
        (["model.emb", "head"], ["model.emb", "head"]),
        (["models.emb"], ["models.emb"]),
    ],
)
def test_prefixes(names: list[str], expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_json_safetensors(path, names, {"rwkv.tokenizer": "world"})
    found = checkpoint.read(path)
    assert list(found.tensors) == expected
    assert [t.name for t in found.tensors.values()] == expected
    assert found.metadata == {"rwkv.tokenizer": "world"}


def test_content_decides_not_the_name(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes((golden / SOURCE).read_bytes())
    assert len(checkpoint.read(path).tensors) == 138


def test_bytes_before_a_zip_are_refused(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "prefixed.pth"
    path.write_bytes(b"#!/bin/sh\n" + (golden / SOURCE).read_bytes())
    with pytest.raises(rn.CheckpointError, match="neither"):
        checkpoint.read(path)


def test_zip64_is_read(golden: Path, tmp_path: Path) -> None:
    """Members of more than 4 GiB need zip64 records; Python writes them for small ones, too."""
    out = io.BytesIO()
    with zipfile.ZipFile(golden / SOURCE) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as member:
                member.write(source.read(name))
    path = tmp_path / "zip64.pth"
    path.write_bytes(out.getvalue())
    assert same(arrays(golden / SOURCE), arrays(path))


def test_writing_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    given = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.float32([7]),
        "ü": np.eye(2),
    }
    checkpoint.write_safetensors(path, given, {"k": "v"})
    found = checkpoint.read(path)
    assert found.metadata == {"k": "v"}
    assert same(arrays(path), {n: a.astype(np.float32) for n, a in given.items()})
    assert found.tensors["a"].offset % 8 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"], "a partial file was left"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.write_safetensors(path, {"a": np.float32([1])}, {})
    before = path.read_bytes()
    with pytest.raises(ValueError):
        checkpoint.write_safetensors(path, {"a": np.array(["no number"])}, {})
    assert path.read_bytes() == before


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """As threads of a server are: each file is whole, and the last to end stays."""
    path = tmp_path / "x"
    with atomic_file.replacing(path) as first:
        first.write(b"first")
        with atomic_file.replacing(path) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_link_becomes(tmp_path: Path) -> None:
    """Its target is written, or it is replaced: one that was put there since the path was judged
    leads nowhere."""
    link, target = tmp_path / "link", tmp_path / "target"
    for through, names in ((True, {link, target}), (False, {link})):
        link.symlink_to(target)
        with atomic_file.replacing(link, through_links=through) as file:
            file.write(b"x")
        assert link.is_symlink() == through and link.read_bytes() == b"x"
        assert set(tmp_path.iterdir()) == names
        for path in names:
            path.unlink()
    link.mkdir()
    with (
        pytest.raises(IsADirectoryError, match="link"),
        atomic_file.replacing(link, through_links=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == [link]


def test_a_file_that_shrinks_is_an_error(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    raw = (golden / SOURCE).read_bytes()
    path.write_bytes(raw)
    head = checkpoint.read(path).tensors["head.weight"]
    path.write_bytes(raw[: head.offset + 10])
    with pytest.raises(rn.CheckpointError, match="shorter"):
        head.to_numpy()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "missing folder"])
def test_what_is_written_replaces_regular_files_only(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    arrays = {"a": np.float32([1])}
    if kind == "link":
        path.symlink_to("real")
        checkpoint.write_safetensors(path, arrays, {})
        assert path.is_symlink() and (tmp_path / "real").is_file()
        path.unlink()
        path.symlink_to("/dev/null")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = path / "y"
    with pytest.raises((rn.Error, OSError)) as caught:
        checkpoint.write_safetensors(path, arrays, {})
    assert str(path) in str(caught.value) and "partial" not in str(caught.value)


def test_paths_of_bytes_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    checkpoint.write_safetensors(path, {"a": np.float32([1])}, {})
    assert checkpoint.read(os.fsencode(path)).path == str(path)
    for wrong in ("", b"", 5, None):
        with pytest.raises(rn.InvalidError, match="path"):
            checkpoint.read(wrong)
