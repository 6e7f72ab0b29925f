"""`rwkv-native bench`: how fast a model runs on this machine, beside the machine's memory."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from web.cli import flags
from web.cli.terminal import LoadLine, Refused, model_for, model_path
from web.config import MODEL

if TYPE_CHECKING:
    import rwkv_native as rn

SUMMARY = "measure how fast a model runs here"
EPILOG = """\
Decoding reads every weight once per step, for all sequences together. For one sequence memory
bandwidth is the limit, and the printed share says how close it comes (above 100 %: the weights stay
in the CPU's caches). Prompts and many sequences are limited by arithmetic. Run nothing else
meanwhile.
"""

_BATCHES = (1, 8, 32)
_TEXT = (
    "The quick brown fox jumps over the lazy dog, 3.14159 times a day; nothing else should run "
    "meanwhile. Größe naïveté señor façade; Съешь ещё этих мягких французских булок. "
    "人之初 性本善 性相近 習相遠 苟不教 性乃遷 教之道 貴以專 def decode(ids: list[int]) -> str: "
    "return ''.join(table[i] for i in ids) if x != 0x7f && y <= 12 { std::vector<float> values; }"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_settings(parser, MODEL)
    group = parser.add_argument_group("amount")
    group.add_argument(
        "--tokens",
        type=int,
        default=32,
        metavar="TOKENS",
        help="to draw per sequence, at least 2 (default: 32)",
    )
    group.add_argument(
        "--prompt",
        type=int,
        default=512,
        metavar="TOKENS",
        help="length of the prompt, at least 1 (default: 512)",
    )


def run(args: argparse.Namespace) -> int:
    from web.engine.families import tokenizer_for

    for name, least in (("tokens", 2), ("prompt", 1)):
        if getattr(args, name) < least:
            raise Refused(f"--{name} must be at least {least}, not {getattr(args, name)}")
    config = flags.config_of(args, MODEL)
    path = model_path(config)
    start = time.perf_counter()
    with LoadLine(sys.stderr, path.name) as line:
        model = model_for(config, line.show)
    seconds = time.perf_counter() - start
    tokenizer = tokenizer_for(model, config.tokenizer)
    info = model.info
    print(
        f"{path.name}: RWKV-{info.version}, {info.parameters / 1e6:,.1f} M parameters, "
        f"{info.strategy}, states {info.state_type}, {info.isa} kernels, {info.threads} threads\n"
    )
    _row("load", f"{seconds:.3g} s", f"{info.weight_bytes / 1e6:,.1f} MB of weights")
    _table(model, tokenizer, args.tokens, args.prompt)
    return 0


def _row(name: str, value: str, beside: str = "") -> None:
    print(f"{name:<24}{value:>16}   {beside}".rstrip(), flush=True)


def _table(model: rn.Model, tokenizer: rn.Tokenizer, tokens: int, prompt: int) -> None:
    import rwkv_native as rn
    from rwkv_native import speed

    info = model.info
    with rn.Engine(model, tokenizer, max_batch=max(_BATCHES)) as engine:
        with _doing(f"a prompt of {prompt}"):
            speed.prefill(engine, prompt)  # the first one pays for fresh memory
            rate = speed.prefill(engine, prompt)
        operations = info.token_flops - 2 * info.vocab * info.width  # its logits are not asked for
        _row(f"prompt, {prompt} tokens", _rate(rate), f"{rate * operations / 1e9:,.1f} GFLOP/s")
        decoded = {}
        for batch in _BATCHES:
            with _doing(f"decoding, batch {batch}"):
                decoded[batch] = speed.decode(engine, batch, tokens)
    used = speed.memory()
    with _doing("memory"):
        limit = speed.read_bandwidth(info.threads)
    for batch, rate in decoded.items():
        step = info.token_bytes + 2 * batch * info.state_bytes
        moved = step * rate / batch / 1e9
        _row(
            f"decode, batch {batch}",
            _rate(rate),
            f"{moved:.1f} GB/s, {moved / limit:.0%} of the memory's {limit:.1f}",
        )
    try:
        text = " ".join(random.Random(1).choices(_TEXT.split(), k=100_000))
        encode, decode = speed.tokenizing(tokenizer, text)
    except rn.Error:  # music has no words
        _row("tokenizer", "-", f"{tokenizer.name} takes no plain text")
    else:
        size = f"{tokenizer.name}, {len(text.encode()) / 1e6:.2f} MB of mixed text"
        _row("tokenizer, encode", f"{encode:,.1f} MB/s", size)
        _row("tokenizer, decode", f"{decode:,.1f} MB/s", size)
    logits, _ = model.forward([1])
    sampling = rn.Sampling(
        top_p=0.3, presence_penalty=0.4, frequency_penalty=0.4, seed=1, max_tokens=1
    )
    drawn = [1 + i % (info.vocab - 1) for i in range(64)]
    spent = speed.drawing(logits, sampling, drawn)
    _row("sampler", f"{1e6 * spent:,.1f} us", f"a row of {info.vocab}, top_p 0.3, penalties")
    _row(
        "resident memory, peak",
        f"{used['peak'] / 1e6:,.1f} MB",
        f"{used['anonymous'] / 1e6:,.1f} MB after decoding without mapped files",
    )


def _rate(tokens_per_second: float) -> str:
    digits = 0 if tokens_per_second >= 100 else 1
    return f"{tokens_per_second:,.{digits}f} tokens/s"


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """`measuring X` on a terminal while it lasts."""
    watched = sys.stderr.isatty()
    if watched:
        print(f"\rmeasuring {what}", end="\x1b[K", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if watched:
            print("\r", end="\x1b[K", file=sys.stderr, flush=True)
