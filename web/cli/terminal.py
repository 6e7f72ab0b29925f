"""What the commands share: flags of models and sampling, and a model opened before one's eyes."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from web.config import Config

if TYPE_CHECKING:
    import rwkv_native as rn
    from web.engine.families import Persona


Flags = argparse._ArgumentGroup


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


def model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="PATH",
        help=".pth, .safetensors, .st or .gguf file, or a folder (default: the demo model)",
    )
    adapter_flags(group)
    group.add_argument(
        "--strategy",
        help="'cpu fp32', 'cpu bf16' or 'cpu fp16'; with i8 or i4 behind it for quantised weights:"
        " 'cpu bf16i8' needs half the memory, 'cpu bf16i4' a third; or auto: the file's own type"
        " (default: auto)",
    )
    group.add_argument(
        "--state-type",
        metavar="TYPE",
        help="fp32, fp16 or bf16: how the states of versions 5 to 7 are kept; 16 bits halve what"
        " conversations hold and move and cost a little accuracy, fp16 the least (default: fp32)",
    )
    group.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="world, world-bytes, abc, midi, midi-piano, or a .json or .txt file (default: what the"
        " model asks for)",
    )
    group.add_argument(
        "--threads",
        type=_threads,
        metavar="N",
        help="CPU threads (default: auto, all usable cores)",
    )


def adapter_flags(group: Any) -> None:
    """Of a parser or a group of one."""
    group.add_argument(
        "--adapter",
        metavar="PATH",
        help="LoRA, DoRA, PiSSA, Bone or MiSS to merge into the weights: a file of RWKV-PEFT or a"
        " folder of peft",
    )
    group.add_argument(
        "--adapter-alpha",
        type=float,
        metavar="A",
        help="alpha of a LoRA whose file does not tell it (RWKV-PEFT's --lora_alpha)",
    )
    group.add_argument(
        "--adapter-init",
        metavar="PATH",
        help="first values of a PiSSA (init_pissa.pth), which training took out of the weights",
    )


def _threads(text: str) -> int:
    return 0 if text == "auto" else int(text)


_threads.__name__ = "number"  # argparse names a wrong value's type by this


_SAMPLING = (
    ("max_tokens", int, "N", "longest answer"),
    ("temperature", float, "T", "0: always the most likely token"),
    ("top_p", float, "P", "keep the most likely tokens up to this sum; 1: all"),
    ("top_k", int, "K", "keep this many of the most likely tokens; 0: all"),
    ("min_p", float, "P", "drop tokens below this share of the best; 0: none"),
    ("presence_penalty", float, "X", "against tokens that have been drawn"),
    ("frequency_penalty", float, "X", "the same, for each time"),
    ("penalty_decay", float, "X", "how counts fade with every token"),
    ("seed", int, "N", "random seed: the same seed gives the same text"),
)


def sampling_flags(
    parser: argparse.ArgumentParser,
    title: str = "sampling (default: as the model's family has it)",
    names: Container[str] | None = None,
) -> Flags:
    group = parser.add_argument_group(title)
    for name, kind, metavar, text in _SAMPLING:
        if names is None or name in names:
            flag = "--" + name.replace("_", "-")
            group.add_argument(flag, type=kind, metavar=metavar, help=text)
    return group


def state_flag(flags: Flags) -> None:
    flags.add_argument("--state", metavar="FILE", help="tuned state where answers start")


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

    given = {name: getattr(args, name) for name, *_ in _SAMPLING}
    try:
        return generation.sampling_for(
            persona, sampling.sampling_of(Fields(given)), stops, chat=chat
        )
    except errors.Refusal as refusal:
        raise Refused("--" + refusal.message.replace("_", "-", 1)) from None


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


def model_config(args: argparse.Namespace) -> Config:
    """What model_flags have read, over the environment."""
    names = ("model", "strategy", "state_type", "tokenizer", "threads")
    names += ("adapter", "adapter_alpha", "adapter_init")
    return Config.from_environment(**{name: getattr(args, name) for name in names})


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

    config = model_config(args)
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
