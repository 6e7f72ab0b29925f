"""From a prompt to a file in one call: what a music model has written, as MIDI or as sound. Called
by `resources/openai/completions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import falcon

from web import errors
from web.midi.conversion import TYPE, Conversions
from web.midi.piece import FAMILIES, composed, foreign_word
from web.midi.sound import Sound, default_font
from web.sandbox.process import Client
from web.threadpool import in_thread, in_thread_if

if TYPE_CHECKING:
    from web.engine.requests import Prompt
    from web.engine.serving import Serving


_LONG = 20_000  # characters of a prompt above which a thread looks at its words


class Compositions:
    """Answers with files. `form` is "midi" or "wav"."""

    def __init__(self, conversions: Conversions, renders: Sound) -> None:
        self._conversions = conversions
        self._sound = renders

    def check(self, serving: Serving, form: str) -> None:
        """Before anything is generated: 400 for a model of other things, 501 without FluidSynth."""
        family = serving.persona.family
        if family not in FAMILIES:
            raise errors.unsupported(
                "response_format.type",
                f'"{form}" is for models that write MIDI tokens, and the loaded one does not'
                f" ({family})",
            )
        if form == "wav":
            self._sound.check()

    def check_prompts(self, serving: Serving, prompts: Sequence[Prompt]) -> None:
        """Before anything is generated, whatever the answer's form: 400 for a text of other words
        than those of a model of MIDI tokens."""
        if serving.persona.family not in FAMILIES:
            return
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                continue
            large = len(prompt) > _LONG
            if problem := in_thread_if(large, foreign_word, serving.tokenizer, prompt):
                raise errors.invalid(
                    "prompt", problem if len(prompts) == 1 else f"text {index + 1}: {problem}"
                )

    def answer(
        self,
        resp: falcon.Response,
        serving: Serving,
        prompt: Prompt,
        text: str,
        form: str,
        sock: Any,
    ) -> None:
        """The file that a prompt's notes and the model's stand for."""
        piece = in_thread(composed, serving.tokenizer, prompt, text)
        client = Client(serving.hangups, sock)
        midi = self._conversions.to_midi(piece, "prompt", client, FAMILIES[serving.persona.family])
        if form == "midi":
            resp.content_type = TYPE
            resp.data = midi
            resp.downloadable_as = "music.mid"
        else:
            # What can be wrong with it is that it lasts too long.
            self._sound.file(midi, default_font(), "max_tokens", client).send(resp)
            resp.downloadable_as = "music.wav"
