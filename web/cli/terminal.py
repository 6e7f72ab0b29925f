"""What the commands share: a model opened before one's eyes, options of an answer, progress."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from web.cli import flags
from web.config import MODEL, Config

if TYPE_CHECKING:
    import rwkv_native as rn
    from web.engine.families import Persona


class Refused(Exception):
    """What was asked for cannot be done; the message says why."""


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: files that are not whole are removed."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def state_of(args: argparse.Namespace, model: rn.Model) -> rn.State | None:
    """What --state names."""
    return None if args.state is None else model.load_tuned_state(args.state)


def sampling_of(
    args: argparse.Namespace, persona: Persona, stops: list[str], chat: bool = False
) -> rn.Sampling:
    """The flags over the family's defaults, with the ranges and messages of the server. `chat`: an
    answer that ends by itself."""
    from web import errors
    from web.engine import generation
    from web.schemas import sampling
    from web.schemas.fields import Fields

    given = {name: vars(args)[name] for name in flags.SAMPLING}
    try:
        return generation.sampling_for(
            persona, sampling.sampling_of(Fields(given)), stops, chat=chat
        )
    except errors.Refusal as refusal:
        flag = f"--{refusal.param}".replace("_", "-")
        raise Refused(refusal.named(flag)) from None


def model_path(config: Config) -> Path:
    """The file that `model` means."""
    import rwkv_native as rn

    if config.model == "":
        raise Refused("--model needs a path; without the flag, the demo model is used")
    if config.model == "none":
        raise Refused("--model none: this command needs a model")
    return rn.demo_model() if config.model is None else Path(config.model)


def tokenizer_named(name: str) -> rn.Tokenizer:
    import rwkv_native as rn

    return rn.Tokenizer.open(name)


def adapter_of(config: Config) -> rn.Adapter | None:
    """What is merged into the model."""
    from web.engine.model_loading import configured_adapter

    return configured_adapter(config)


def model_for(config: Config, show: Callable[[int, int], None]) -> rn.Model:
    """The model that the settings name; `show` hears how far its load is."""
    import rwkv_native as rn

    return rn.Model.open(
        model_path(config),
        config.strategy,
        config.threads or None,
        progress=show,
        state_type=config.state_type,
        adapter=adapter_of(config),
    )


_TEXT = 1 << 20  # bytes for the tokens before a state


@contextlib.contextmanager
def opened(
    args: argparse.Namespace, states: int = 0
) -> Iterator[tuple[rn.Model, rn.Tokenizer, rn.Engine]]:
    """The model that the flags name, ready for one conversation, of which the engine keeps as many
    states."""
    import rwkv_native as rn
    from web.engine.families import tokenizer_for

    config = flags.config_of(args, MODEL)
    with LoadLine(sys.stderr, model_path(config).name) as line:
        model = model_for(config, line.show)
    tokenizer = tokenizer_for(model, config.tokenizer)
    kept = states * (model.info.state_bytes + 4 * model.info.vocab + _TEXT)
    with rn.Engine(
        model, tokenizer, max_batch=1, prefill_chunk=config.prefill_chunk, cache_bytes=kept
    ) as engine:
        try:
            yield model, tokenizer, engine
        except rn.InvalidError as problem:
            if "is outside 0 to" not in str(problem):
                raise
            raise Refused(
                f"{problem}: the tokenizer {tokenizer.name} has other ids than the"
                f" {model.info.vocab} of this model; --tokenizer names the right one"
            ) from None


def speed(tokens: int, seconds: float) -> str:
    """How fast an answer of several tokens came."""
    return f"{tokens} tokens, {tokens / max(seconds, 1e-9):.1f} tokens/s"


class LoadLine:
    """`loading X: 40 %` on a terminal, wiped when done; nothing where nobody watches."""

    def __init__(self, stream: TextIO, name: str, doing: str = "loading") -> None:
        self._stream = stream
        self._name = f"{doing} {name}"
        self._shown = ""
        # A small model needs no line.
        self._from = time.monotonic() + 0.2 if stream.isatty() else float("inf")

    def show(self, done: float, total: float) -> None:
        text = f"{self._name}: {100 * done / max(total, 1):.0f} %"
        if text != self._shown and total and time.monotonic() >= self._from:
            self._shown = text
            self._stream.write(f"\r{text}\x1b[K")
            self._stream.flush()

    def wipe(self) -> None:
        if self._shown:
            self._shown = ""
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def __enter__(self) -> LoadLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
