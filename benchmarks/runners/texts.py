"""Tokenizers of the World vocabulary as benchmarks/text.py measures them: `texts.py WHOSE FILE`.

The libraries are imported where they are used: no environment has both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import answers


def timed(work: Callable[[], object], size: int) -> float:
    """MB per second."""
    start = time.perf_counter()
    work()
    return size / (time.perf_counter() - start) / 1e6


def tokenizer(whose: str) -> tuple[Callable, Callable]:
    """(encode, decode), each as quick as its Python interface is."""
    if whose == "ours":
        import rwkv_native as rn

        ours = rn.Tokenizer.world()
        return ours.encode_array, ours.decode
    import pyrwkv_tokenizer

    theirs = pyrwkv_tokenizer.RWKVTokenizer()
    return theirs.encode, theirs.decode


def main() -> None:
    start = time.perf_counter()
    encode, decode = tokenizer(sys.argv[1])
    seconds = time.perf_counter() - start
    text = Path(sys.argv[2]).read_text("utf-8")
    size = len(text.encode())

    def tokenize() -> dict[str, object]:
        ids = encode(text)
        assert decode(ids) == text
        rates = {"encode": timed(lambda: encode(text), size)}
        return {**rates, "decode": timed(lambda: decode(ids), size), "ids": len(ids)}

    answers.serve(seconds, {"tokenize": tokenize})


if __name__ == "__main__":
    main()
