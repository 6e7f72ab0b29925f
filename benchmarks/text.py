"""Tokenizers and the sampler: text to ids, back, and a row of logits to one id.

A table of benchmarks/peers.py. The text is 3 MB: Python's documentation in English, its library's
code, and random Chinese tokens of the World vocabulary, interleaved by paragraphs. One core each.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import statistics
import sys
import sysconfig
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import sides

import rwkv_native as rn
from rwkv_native import speed

_PART = 1_000_000  # bytes of each kind


def corpus() -> str:
    """The same text on every run with the same Python."""
    english = "\n".join(pydoc_data.topics.topics.values())
    library = Path(sysconfig.get_path("stdlib"))
    code = "".join(path.read_text("utf-8", "ignore") for path in sorted(library.glob("[a-h]*.py")))
    tokenizer, rng = rn.Tokenizer.world(), random.Random(1)
    words = (tokenizer.decode_bytes([i]).decode("utf-8", "ignore") for i in range(10_000, 18_000))
    chinese = [word for word in words if word and all("\u4e00" <= c <= "\u9fff" for c in word)]
    paragraphs = ("".join(rng.choices(chinese, k=120)) for _ in range(_PART // 400))
    kinds = (english[:_PART].split("\n\n"), code[:_PART].split("\n\n"), paragraphs)
    return "\n\n".join(p for p in chain.from_iterable(zip_longest(*kinds)) if p)


def measure(bench: sides.Bench) -> None:
    """Prints the table."""
    path = bench.folder / "mixed.txt"
    path.write_text(corpus(), encoding="utf-8")
    scripts = sides.HERE / "runners"
    model = bench.file("0.1B", "BF16")
    rates: dict[str, list[dict[str, float]]] = {"ours": [], "pyrwkv-tokenizer": [], "llama.cpp": []}
    with (
        sides.Runner(sys.executable, scripts / "texts.py", "ours", path) as ours,
        sides.Runner(bench.llama, scripts / "texts.py", "pyrwkv", path) as pyrwkv,
        sides.Runner(bench.llama, scripts / "llama.py", model, "1") as llama,
    ):
        for _ in range(bench.rounds):
            rates["ours"].append(ours.ask("tokenize"))
            rates["pyrwkv-tokenizer"].append(pyrwkv.ask("tokenize"))
            rates["llama.cpp"].append(llama.ask("tokenize", path=str(path)))
    counts = {name: found[0]["ids"] for name, found in rates.items()}
    print(f"\n| World tokenizer, {path.stat().st_size / 1e6:.1f} MB | " + " | ".join(rates) + " |")
    print("|---" * (1 + len(rates)) + "|")
    for work in ("encode", "decode"):
        medians = (statistics.median(one[work] for one in found) for found in rates.values())
        print(f"| {work}, MB/s | " + " | ".join(f"{value:.0f}" for value in medians) + " |")
    print("| ids | " + " | ".join(str(count) for count in counts.values()) + " |")
    noise = np.random.default_rng(1).standard_normal(65536).astype(np.float32)
    sampling = rn.Sampling(top_p=0.3, presence_penalty=0.4, frequency_penalty=0.4, seed=1)
    # Real models are sure of some tokens; logits of deviation 1 leave thousands in the cut.
    sure, unsure = (speed.drawing(k * noise, sampling, list(range(100, 200))) for k in (4, 1))
    print(
        "\nsampler, a row of 65536, penalties, top_p 0.3, one core: "
        f"{1e6 * sure:.0f} us (logits of deviation 4), {1e6 * unsure:.0f} us (1)"
    )
