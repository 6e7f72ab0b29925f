"""Writes the C source of the extension module: `python _build.py OUT.c`, run by CMake.

Owns the cut: the cffi declarations are the part of rwkv.h between its two scissor lines, so the
header stays the only description of the C interface. Never imported at run time.
"""

import re
import sys
from pathlib import Path

from cffi import FFI

HEADER = Path(__file__).resolve().parent.parent / "native" / "include" / "rwkv.h"

# The doorbell. A Python callback on the engine thread would wait for the GIL at every step; a C
# function that writes eventfds does not. Two descriptors: one for whoever watches Engine.fileno(),
# one for the iterators of Engine.generate(), so that neither swallows the other's wake-up.
BELL_DECLARATIONS = """
typedef struct { int watcher, iterators; } rn_bell;
void rn_ring(void *bell);
"""
# The one function of Python that C calls: a request's mask, for callers who write theirs in Python.
MASK_DECLARATION = """
extern "Python" int32_t rn_mask(void *payload, uint64_t *bits, const int32_t *tokens, size_t n);
"""
BELL_SOURCE = """
#include <rwkv.h>
#include <unistd.h>

typedef struct { int watcher, iterators; } rn_bell;

static void rn_ring(void *payload)
{
    const rn_bell *bell = (const rn_bell *)payload;
    const uint64_t one = 1;
    /* The descriptors do not block; a write can fail only when the counter is full, and then the
       bell is ringing already. */
    ssize_t ignored = write(bell->watcher, &one, sizeof one);
    ignored = write(bell->iterators, &one, sizeof one);
    (void)ignored;
}
"""


def declarations(header: str) -> str:
    """The part of the header that cffi reads."""
    parts = re.split(r"/\* -{4} (?:8<|>8) -{4}.*?\*/", header)
    if len(parts) != 3:
        raise SystemExit(f"{HEADER}: the two scissor lines are not there")
    return re.sub(r"\bRWKV_API\s+", "", parts[1])


def main(out: str) -> None:
    ffi = FFI()
    ffi.cdef(
        declarations(HEADER.read_text(encoding="utf-8")) + BELL_DECLARATIONS + MASK_DECLARATION
    )
    ffi.set_source("rwkv_native._rn", BELL_SOURCE, py_limited_api=True)
    ffi.emit_c_code(out)


if __name__ == "__main__":
    main(sys.argv[1])
