"""Writers of small checkpoints, good and bad, and the one check that all attacks share.

The pickles are written opcode by opcode, so that they hold exactly what an attacker would choose.
"""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
from pathlib import Path

import pytest

import rwkv_native as rn
from rwkv_native import checkpoint

CANARY = "CANARY"  # a file in the current folder that no attack may create
TOUCH = f"touch {CANARY}"


def refused(path: Path, words: str) -> None:
    start, busy = time.perf_counter(), time.process_time()
    with pytest.raises(rn.Error) as caught:
        checkpoint.read(path)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    assert isinstance(caught.value, rn.CheckpointError) and isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "damaged file (" not in message
    assert any(w in message for w in words.split("|")), message
    assert len(message) < len(str(path)) + 700 and message.isprintable()
    # Prompt, whatever else the machine does: the slowest refusal takes half a second of a core.
    assert busy < 5 and took < 30, f"took {took:.1f} s, {busy:.1f} s of a core"


# -- a writer of pickles


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def sequence(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(number(v) for v in values) + b"t"


def call(name: str, args: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + args + b"R"


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 6) -> bytes:
    return (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
        + number(numel) + b"tQ"
    )  # fmt: skip


def tensor(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    offset: int = 0,
    of: bytes | None = None,
) -> bytes:
    args = (of or storage()) + number(offset) + sequence(shape) + sequence(strides)
    hooks = call("collections.OrderedDict", b")")
    return call("torch._utils._rebuild_tensor_v2", b"(" + args + b"\x89" + hooks + b"t")


def state_dict(value: bytes, name: str = "emb.weight") -> bytes:
    return b"\x80\x02}" + text(name) + value + b"s."


# -- a writer of zips


def archive(
    data: bytes,
    *,
    numbers: bytes = bytes(24),
    extra: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/data/0", numbers)
        file.writestr("archive/version", b"3\n")
        for name, content in (extra or {}).items():
            file.writestr(name, content)
    return out.getvalue()


GOOD_PICKLE = state_dict(tensor())


# -- safetensors


def safetensors(header: object, data: bytes = bytes(24), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(
    dtype: object = "F32", shape: object = (2, 3), offsets: object = (0, 24)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# -- a writer of .pth before 1.6


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


MAGIC = pickled(b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little"))
SYSTEM = pickled(b"}(" + text("protocol_version") + number(1001) + text("little_endian") + b"\x88u")


def old_storage(kind: str = "FloatStorage", key: str = "0", numel: int = 6) -> bytes:
    """Persistent ids have a sixth field there."""
    return storage(kind, key, numel)[:-2] + b"NtQ"


def legacy(
    value: bytes,
    *,
    magic: bytes = MAGIC,
    protocol: bytes | None = None,
    system: bytes = SYSTEM,
    keys: bytes | None = None,
    data: bytes | None = None,
) -> bytes:
    """`value` is a whole pickle, such as state_dict() makes."""
    listed = b"](" + text("0") + b"e" if keys is None else keys
    numbers = struct.pack("<q6f", 6, *range(6)) if data is None else data
    return (
        magic + (pickled(number(1001)) if protocol is None else protocol) + system + value
        + pickled(listed) + numbers
    )  # fmt: skip


# -- a writer of GGUF


def gguf_text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf_value(key: bytes, kind: int, value: bytes) -> bytes:
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf_info(
    name: bytes = b"token_embd.weight",
    dims: tuple[int, ...] = (3, 2),
    kind: int = 0,
    offset: int = 0,
    rank: int | None = None,
) -> bytes:
    rank = len(dims) if rank is None else rank
    return gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", rank, *dims, kind, offset)


RWKV7 = gguf_value(b"general.architecture", 8, gguf_text(b"rwkv7"))


def gguf_file(
    values: tuple[bytes, ...] = (),
    infos: tuple[bytes, ...] | None = None,
    *,
    data: bytes = struct.pack("<6f", *range(6)),
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    architecture: bytes = RWKV7,
) -> bytes:
    infos = (gguf_info(),) if infos is None else infos
    values = (architecture, *values)
    n_infos = len(infos) if counts[0] is None else counts[0]
    n_values = len(values) if counts[1] is None else counts[1]
    head = b"GGUF" + struct.pack("<IQQ", version, n_infos, n_values)
    head += b"".join(values) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data
