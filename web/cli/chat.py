"""`rwkv-native chat`: a conversation in the terminal.

The conversation lives in the model's state: a turn runs its own tokens only, however long the talk
has become. Prompts are those of the server (`web/prompts/`).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from web.cli.terminal import Refused, model_flags, opened, sampling_flags, sampling_of

if TYPE_CHECKING:
    import rwkv_native as rn
    from web.personas import Persona
    from web.prompts.parts import Names

SUMMARY = "talk to a model in the terminal"
EPILOG = """\
Type a line, read the answer. /new forgets the conversation; /exit or Ctrl-D ends it; Ctrl-C stops
an answer. With piped input every line is one turn.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    model_flags(parser)
    sampling_flags(parser)
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
        conversation = Conversation(model, tokenizer, engine, names, args.system, persona)
        watched = sys.stdin.isatty()
        if watched:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (gives input() editing and a history)
            print(f"{Path(model.info.path).name}, {model.info.strategy}. /new /exit", flush=True)
        while (line := _next_line(watched)) is not None:
            said = line.strip()
            if said in ("/exit", "/quit"):
                break
            if said == "/new":
                conversation.forget()
            elif said:
                _print(conversation.answer(said, sampling))
    return 0


def _next_line(watched: bool) -> str | None:
    try:
        return input("> " if watched else "")
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
    ) -> None:
        from web.personas import WORLD

        self._model = model
        self._tokenizer = tokenizer
        self._engine = engine
        self._names = names
        self._system = system
        self._persona = persona or WORLD
        self.forget()

    def forget(self) -> None:
        self._state: rn.State | None = None
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
        prompt = f"{self._said}\n\n{turn}" if self._said else turn
        ids = self._unseen + self._tokenizer.encode(prompt)
        # The engine does not hand out states, so all but the last token run here, once.
        if len(ids) > 1:
            _, self._state = self._model.forward(ids[:-1], self._state)
        self._unseen = ids[-1:]
        self._said = ""
        with self._engine.generate(self._unseen, sampling, state=self._state) as events:
            for event in events:
                if event.error is not None:
                    raise RuntimeError(event.error)
                self._said += event.text
                yield event.text
