"""`rwkv-native chat`: a conversation in the terminal.

Prompts, answers and their ids are those of the server (`web/chat/prompts/`, `web/chat/answers.py`,
`web/engine/known_answers.py`). The engine keeps the states of the talk, so a turn runs its own
tokens only, however long that has become; but for RWKV-7b, of which it keeps none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from array import array
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from web.cli import flags
from web.cli.terminal import Refused, opened, sampling_of, speed, state_of
from web.config import MODEL

if TYPE_CHECKING:
    import rwkv_native as rn
    from web.chat.messages import Message
    from web.chat.prompts.parts import Names
    from web.engine.families import Persona

# Kept by the engine: those of the last two turns, each with the beginnings that may be shared.
_STATES = 8

SUMMARY = "talk to a model in the terminal"
EPILOG = """\
Type a line, read the answer. /new forgets the conversation. /exit or Ctrl-D ends it. Ctrl-C stops
an answer. A line that begins with // is sent with one slash. Piped input is one turn per line. The
history of typed lines is kept in $XDG_STATE_HOME/rwkv-native/chat (~/.local/state/...).
"""
_HELP = "/new forgets the conversation, /exit ends it, Ctrl-C stops an answer"
_MOST_KEPT = 1000  # lines of what was typed


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_settings(parser, MODEL)
    flags.add_sampling(parser, state=True)
    group = parser.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="system message (default: none)")
    group.add_argument(
        "--user-name",
        metavar="NAME",
        help="label of your turns (default: the family's, mostly User)",
    )
    group.add_argument(
        "--assistant-name",
        metavar="NAME",
        help="label of the answers (default: the family's, mostly Assistant)",
    )


def run(args: argparse.Namespace) -> int:
    from web.chat import messages
    from web.chat.prompts.parts import names_for
    from web.chat.prompts.stops import chat_stops
    from web.engine.families import persona_for

    with opened(args, _STATES) as (model, tokenizer, engine):
        persona = persona_for(model.info, tokenizer)
        if not persona.chats:
            raise Refused(f"this model makes music ({persona.family}): use rwkv-native generate")
        labels = {"user_name": args.user_name, "assistant_name": args.assistant_name}
        names = names_for(persona, messages.Conversation(messages=[], **labels))
        sampling = sampling_of(args, persona, chat_stops(None, names), chat=True)
        conversation = Conversation(engine, persona, names, args.system, state_of(args, model))
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
    """Prints an answer as it comes. Ctrl-C ends it."""
    with contextlib.closing(pieces), contextlib.suppress(KeyboardInterrupt):
        for piece in pieces:
            print(piece, end="", flush=True)
    print(flush=True)


class Conversation:
    """What has been said."""

    def __init__(
        self,
        engine: rn.Engine,
        persona: Persona,
        names: Names,
        system: str | None,
        start: rn.State | None = None,
    ) -> None:
        from web.engine.known_answers import KnownAnswers

        self._engine = engine
        self._persona = persona
        self._names = names
        self._system = system
        self._start = start
        self._known = KnownAnswers(engine.tokenizer)
        self.drawn = 0  # tokens of the last answer
        self.forget()

    def forget(self) -> None:
        from web.chat.messages import Message

        self.messages: list[Message] = [Message("system", self._system)] if self._system else []

    def answer(self, text: str, sampling: rn.Sampling) -> Generator[str, None, None]:
        """The pieces of the answer to one turn. What has been yielded counts as said, also when the
        caller stops early."""
        from web.chat.answers import answer_to
        from web.chat.events import Text
        from web.chat.messages import Message
        from web.chat.prompts.formats import rendered

        self.messages.append(Message("user", text))
        prompt = rendered(self._persona, self.messages, self._names)
        fed = self._known.encode(prompt)
        answer = answer_to(prompt, fed, self._persona, self._known)
        ids, self.drawn = array("i"), 0
        try:
            with self._engine.generate(
                fed.ids, sampling, state=self._start, save_at=fed.save_at
            ) as events:
                for event in events:
                    if event.error is not None:
                        raise RuntimeError(event.error)
                    ids.extend(event.token_ids)
                    self.drawn = event.completion_tokens
                    for said in answer.feed(event.text):
                        assert isinstance(said, Text)  # no tools, no calls
                        yield said.text
            answer.end("stop", ids)
        finally:
            self.messages.append(answer.message)
