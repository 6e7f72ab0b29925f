"""`rwkv-native music`: notes in words, or what a music model makes of a prompt, as a file."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from web.cli import flags
from web.cli.terminal import (
    LoadLine,
    Refused,
    cleaning_up,
    opened,
    sampling_of,
)
from web.config import MODEL

if TYPE_CHECKING:
    from web.midi.sound import Sound

SUMMARY = "write a MIDI or WAV file from notes as text, or from a music model"
EPILOG = """\
The text format is that of RWKV's MIDI models: `pi:3c:a t62 pi:3c:0` is a piano's middle C for half
a second. The output is MIDI or sound, by its suffix. Sound needs FluidSynth (Debian and Ubuntu: apt
install libfluidsynth3).

examples:
  rwkv-native music piece.txt --output piece.wav
  rwkv-native music --prompt "<pad>" --model RWKV-4-MIDI-560M.pth --max-tokens 1000 --output a.mid
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", metavar="FILE", help="notes as text; -: standard input")
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what --model continues, instead of FILE (default: none)"
    )
    flags.add_settings(parser, MODEL)
    flags.add_sampling(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", "-o", metavar="FILE", required=True, help="file to write: .mid or .wav"
    )
    group.add_argument("--sound-font", metavar="FILE", help="SoundFont, .sf2 (default: TimGM6mb)")
    group.add_argument("--piano", action="store_true", help="FILE comes from a MIDI piano model")


def run(args: argparse.Namespace) -> int:
    from web.files import workspace_files
    from web.midi.limits import MidiError
    from web.midi.piece import is_silent
    from web.midi.vocabulary import VOCABULARIES
    from web.midi.writer import text_to_midi

    if (args.text is None) == (args.prompt is None):
        raise Refused("music needs a FILE of notes, or --prompt and --model")
    out = Path(args.output)
    if out.suffix.lower() not in (".mid", ".midi", ".wav"):
        raise Refused(f"--output {out}: its name must end in .mid or .wav")
    if not out.parent.is_dir():
        raise Refused(f"--output {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise Refused(f"--output {out}: is a folder")
    # A model may compose for minutes: what would lose its piece is refused before.
    studio = _studio(args.sound_font) if out.suffix.lower() == ".wav" else None
    text, vocabulary = _written(args) if args.prompt is None else _composed(args)
    try:
        midi = text_to_midi(text, VOCABULARIES[vocabulary])
    except MidiError as problem:
        raise Refused(f"{args.text or '--prompt'}: {problem}") from None
    if is_silent(text):
        if args.prompt is None:
            raise Refused(f"{args.text}: there is no note in it")
        raise Refused("--prompt: there is no note in it, and the model has written none")
    with _refusals():
        if studio is None:
            workspace_files.save(out.resolve(), "--output", midi)
        else:
            _render(midi, out, *studio)
    print(f"{out}: {out.stat().st_size:,} bytes")
    return 0


def _written(args: argparse.Namespace) -> tuple[str, str]:
    """The text of a file, and its vocabulary."""
    from web.midi.piece import ended

    try:
        text = sys.stdin.read() if args.text == "-" else Path(args.text).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(f"{args.text}: it is not a text in UTF-8") from None
    return ended(text), "piano" if args.piano else "default"


def _composed(args: argparse.Namespace) -> tuple[str, str]:
    """What a model makes of a prompt, and its vocabulary."""
    from web.engine.families import persona_for
    from web.engine.generation import fed_text
    from web.midi.piece import FAMILIES, composed, foreign_word

    with opened(args) as (model, tokenizer, engine):
        persona = persona_for(model.info, tokenizer)
        if persona.family not in FAMILIES:
            raise Refused(
                f"the model writes no MIDI tokens ({persona.family}); --model takes one that does"
            )
        sampling = sampling_of(args, persona, [])
        prompt = fed_text(persona, args.prompt)
        if problem := foreign_word(tokenizer, prompt):
            raise Refused(f"--prompt: {problem}")
        words = []
        with (
            LoadLine(sys.stderr, "the piece", "composing") as line,
            engine.generate(prompt, sampling) as events,
        ):
            for event in events:
                if event.error is not None:
                    raise RuntimeError(event.error)
                words.append(event.text)
                line.show(len(words), sampling.max_tokens)
    return composed(tokenizer, prompt, "".join(words)), FAMILIES[persona.family]


def _studio(font: str | None) -> tuple[Sound, Path]:
    """FluidSynth, and its SoundFont."""
    from web.config import Config
    from web.midi import sound

    if font is not None and not Path(font).is_file():
        raise Refused(f"--sound-font {font}: there is no such file")
    config = Config.from_environment()
    limits = sound.Limits(config.sound_length, config.sound_seconds, config.sound_memory)
    renders = sound.Sound(limits)
    with _refusals():
        renders.check()
        return renders, sound.default_font() if font is None else Path(font).resolve()


def _render(midi: bytes, out: Path, renders: Sound, font: Path) -> None:
    with cleaning_up(), LoadLine(sys.stderr, out.name, "rendering") as line:
        try:
            renders.save(midi, font, out.resolve(), "the piece", tell=line.show)
        except OSError as problem:
            raise Refused(f"--output cannot be written: {problem.strerror}") from None


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """In the words of the command line."""
    from web import errors
    from web.midi import sound

    try:
        yield
    except errors.Refusal as problem:
        field = "--sound-font" if problem.param == sound.FONT else problem.param
        raise Refused(problem.named(field)) from None
