"""`rwkv-native chat`: a conversation in the terminal.

The conversation lives in the model's state: a turn runs its own tokens only, however long the talk
has become. Prompts are those of the server (`web/prompts/`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from web.cli.terminal import (
    Refused,
    model_flags,
    opened,
    sampling_flags,
    sampling_of,
    speed,
    state_flag,
    state_of,
)

if TYPE_CHECKING:
    import rwkv_native as rn
    from web.personas import Persona
    from web.prompts.parts import Names

SUMMARY = "talk to a model in the terminal"
EPILOG = """\
Type a line, read the answer. /new forgets the conversation; /exit or Ctrl-D ends it; Ctrl-C stops
an answer; // begins a line that shall start with a /. With piped input every line is one turn. What
was typed on a terminal is kept for the next time in $XDG_STATE_HOME (~/.local/state) under
rwkv-native/chat.
"""
_HELP = "/new forgets the conversation, /exit ends it, Ctrl-C stops an answer"
_MOST_KEPT = 1000  # lines of what was typed


def add_flags(parser: argparse.ArgumentParser) -> None:
    model_flags(parser)
    state_flag(sampling_flags(parser))
    group = parser.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="a system message before the first turn")
    group.add_argument("--user-name", metavar="NAME", help="label of your turns (User)")
    group.add_argument("--assistant-name", metavar="NAME", help="label of the answers (Assistant)")


def run(args: argparse.Namespace) -> int:
    from web.personas import persona_for
    from web.prompts.parts import Names
    from web.prompts.stops import chat_stops

    with opened(args) as (model, tokenizer, engine):
        persona = persona_for(model.info, tokenizer)
        if not persona.chats:
            raise Refused(f"this model makes music ({persona.family}): use rwkv-native generate")
        names = Names(
            user=args.user_name or persona.user,
            assistant=args.assistant_name or persona.assistant,
            system=persona.system,
            tool=persona.tool,
        )
        sampling = sampling_of(args, persona, chat_stops(None, names), chat=True)
        conversation = Conversation(
            model, tokenizer, engine, names, args.system, persona, state_of(args, model)
        )
        watched = sys.stdin.isatty()
        if watched:
            print(f"{Path(model.info.path).name}, {model.info.strategy}. {_HELP}.", flush=True)
        with _history() if watched else contextlib.nullcontext():
            _talk(conversation, sampling, watched)
    return 0


def _talk(conversation: Conversation, sampling: rn.Sampling, watched: bool) -> None:
    while (line := _next_line(watched)) is not None:
        said = line.strip()
        if said in ("/exit", "/quit"):
            break
        if said == "/new":
            conversation.forget()
            _note("a new conversation", watched)
        elif said.startswith("/") and not said.startswith("//"):
            _note(_HELP if said == "/help" else f"there is no {said.split()[0]}: {_HELP}", True)
        elif said:
            begun = time.monotonic()
            _print(conversation.answer(said.removeprefix("/"), sampling))
            _note(speed(conversation.drawn, time.monotonic() - begun), watched)


def _note(text: str, watched: bool) -> None:
    """What is no part of the conversation."""
    if watched:
        print(f"[{text}]", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Editing of lines, and those of earlier times, where Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    kept = Path(home) / "rwkv-native" / "chat"
    readline.set_history_length(_MOST_KEPT)
    with contextlib.suppress(OSError):
        readline.read_history_file(kept)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.touch(0o600)
            readline.write_history_file(kept)


def _next_line(watched: bool) -> str | None:
    try:
        # Bytes that are not UTF-8 come as halves of surrogate pairs, which no tokenizer takes.
        return input("> " if watched else "").encode(errors="replace").decode()
    except EOFError:
        if watched:
            print()
        return None
    except KeyboardInterrupt:
        if not watched:
            raise
        print()
        return ""


def _print(pieces: Generator[str, None, None]) -> None:
    """Prints an answer as it comes, without the blank that it begins with. Ctrl-C ends it."""
    begun = False
    with contextlib.closing(pieces), contextlib.suppress(KeyboardInterrupt):
        for piece in pieces:
            text = piece if begun else piece.lstrip()
            begun = begun or bool(text)
            print(text, end="", flush=True)
    print(flush=True)


class Conversation:
    """What has been said, as a state and the few tokens that it has not seen.

    The state remembers all of it: unlike the server, this keeps what a reasoning model thought.
    """

    def __init__(
        self,
        model: rn.Model,
        tokenizer: rn.Tokenizer,
        engine: rn.Engine,
        names: Names,
        system: str | None,
        persona: Persona | None = None,
        start: rn.State | None = None,
    ) -> None:
        from web.personas import WORLD

        self._model = model
        self._tokenizer = tokenizer
        self._engine = engine
        self._names = names
        self._system = system
        self._persona = persona or WORLD
        self._start = start
        self.drawn = 0  # tokens of the last answer
        self.forget()

    def forget(self) -> None:
        self._state: rn.State | None = self._start
        self._unseen: list[int] = []  # the token that the last answer began with
        self._said = ""  # the last answer
        if self._system:
            self._said = self._render("system", self._system).removesuffix(
                f"\n\n{self._names.assistant}:"
            )

    def _render(self, role: str, text: str) -> str:
        from web.prompts.formats import chat_prompt
        from web.schemas.chat import Message

        return chat_prompt(self._persona, [Message(role, text)], self._names)

    def answer(self, text: str, sampling: rn.Sampling) -> Generator[str, None, None]:
        """The pieces of the answer to one turn. What has been yielded counts as said, also when the
        caller stops early."""
        turn = self._render("user", text)
        prompt = f"{self._said.rstrip()}\n\n{turn}" if self._said else turn
        ids = self._unseen + self._tokenizer.encode(prompt)
        # The engine does not hand out states, so all but the last token run here, once.
        if len(ids) > 1:
            _, self._state = self._model.forward(ids[:-1], self._state)
        self._unseen = ids[-1:]
        self._said = ""
        self.drawn = 0
        with self._engine.generate(self._unseen, sampling, state=self._state) as events:
            for event in events:
                if event.error is not None:
                    raise RuntimeError(event.error)
                self._said += event.text
                self.drawn = event.completion_tokens
                yield event.text
