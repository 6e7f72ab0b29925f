"""Each instruction set's object exports its table and nothing else.

A weak symbol in an object compiled for AVX-512 may be the copy that the linker keeps for
everybody, and old CPUs then crash; see design decision 4.7.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ISAS = {
    "x86_64": ["baseline", "avx2", "avx2vnni", "avx512", "avx512bf16"],
    "aarch64": ["neon", "neondot", "neonbf16"],
}.get(platform.machine(), ["baseline"])


@pytest.fixture(scope="module")
def objects() -> Path:
    """The folder in which the package was built."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    found = list(ROOT.glob("build/cp311-abi3-*"))
    if not found:
        pytest.skip("the package was not built here")
    return found[0]


def symbols(objects: Path, isa: str) -> list[tuple[str, str]]:
    """(type, name) of every symbol of the object; types as nm prints them."""
    found = list(objects.rglob(f"isa_{isa}.cpp.o"))
    assert len(found) == 1, f"isa_{isa}.cpp.o in {objects}: {found}"
    done = subprocess.run(["nm", str(found[0])], capture_output=True, text=True, check=True)
    return [(line.split()[-2], line.split()[-1]) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("isa", ISAS)
def test_exports_one_function(objects: Path, isa: str) -> None:
    table = symbols(objects, isa)
    assert [name for kind, name in table if kind in "TDBRSGC"] == [f"rwkv_kernels_{isa}"]


@pytest.mark.parametrize("isa", ISAS)
def test_has_no_weak_symbols(objects: Path, isa: str) -> None:
    weak = [name for kind, name in symbols(objects, isa) if kind in "WVwvui"]
    assert weak == []


@pytest.mark.parametrize("isa", ISAS)
def test_needs_only_the_c_library(objects: Path, isa: str) -> None:
    needed = {name for kind, name in symbols(objects, isa) if kind == "U"}
    assert needed <= {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction set of x86-64")
def test_products_of_avx_vnni_need_no_avx512(objects: Path) -> None:
    """Processors with AVX-VNNI alone cannot decode the other encoding of the same instruction."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    (found,) = objects.rglob("isa_avx2vnni.cpp.o")
    done = subprocess.run(["objdump", "-d", str(found)], capture_output=True, text=True, check=True)
    products = [line for line in done.stdout.splitlines() if "vpdpbusd" in line]
    assert products and all("{vex} vpdpbusd" in line for line in products)
    assert "zmm" not in done.stdout and "%k" not in done.stdout
