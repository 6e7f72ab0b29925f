"""POST /midi-to-wav, for files of the workspace, and POST /text-to-wav, which leaves files there or
answers the sound itself.
"""

from __future__ import annotations

from pathlib import Path

import falcon

from web import errors
from web.engine.model_host import Runtime
from web.files import workspace_files
from web.files.allowed_paths import MUSIC, Roots
from web.midi import sound
from web.midi.conversion import Conversions
from web.midi.limits import LIMITS
from web.midi.piece import ended, marked
from web.midi.sound import Sound
from web.sandbox.process import Client
from web.schemas import fields
from web.schemas.sound import MidiToWavRequest, midi_to_wav_request, text_to_wav_request
from web.threadpool import at_disk
from web.transport.request_body import read_body

_SUCCESS = b'"success"'


class MidiToWavResource:
    """Reads one file of the workspace and writes another."""

    def __init__(self, runtime: Runtime, roots: Roots, renders: Sound) -> None:
        self._runtime = runtime
        self._roots = roots
        self._sound = renders

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), midi_to_wav_request)
        midi, path, font = at_disk(self._files, request)
        _save(
            self._sound,
            midi,
            font,
            path,
            "wav_path",
            "midi_path",
            Client.of(self._runtime.hangups, req),
        )
        resp.data = _SUCCESS

    def _files(self, request: MidiToWavRequest) -> tuple[bytes, Path, Path]:
        path = self._roots.output("wav_path", request.wav_path)
        source = self._roots.find("midi_path", request.midi_path)
        font = _font(self._roots, request.sound_font_path)
        return workspace_files.contents(source, "midi_path", LIMITS.file), path, font


class TextToWavResource:
    """Leaves NAME.txt, NAME.mid and NAME.wav in the workspace, as RWKV Runner does; a client that
    accepts audio gets the sound, and no file is touched."""

    def __init__(
        self, runtime: Runtime, roots: Roots, conversions: Conversions, renders: Sound
    ) -> None:
        self._runtime = runtime
        self._roots = roots
        self._conversions = conversions
        self._sound = renders

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        audio = _wants_audio(req)
        if self._runtime.deploy and not audio:
            raise errors.forbidden()
        request = fields.read(read_body(req), text_to_wav_request)
        if self._runtime.deploy and not sound.is_default(request.sound_font_path):
            raise errors.forbidden(sound.FONT)
        font = at_disk(_font, self._roots, request.sound_font_path)
        client = Client.of(self._runtime.hangups, req)
        if audio:
            midi = self._conversions.to_midi(ended(request.text), "text", client)
            self._sound.file(midi, font, "text", client).send(resp)
            return
        paths = at_disk(self._outputs, request.wav_name)
        midi = self._conversions.to_midi(ended(request.text), "text", client)
        _save(self._sound, midi, font, paths[".wav"], "wav_name", "text", client)
        at_disk(workspace_files.save, paths[".mid"], "wav_name", midi)
        at_disk(workspace_files.save, paths[".txt"], "wav_name", marked(request.text).encode())
        resp.data = _SUCCESS

    def _outputs(self, name: str | None) -> dict[str, Path]:
        if not name:
            raise errors.invalid("wav_name", "is required unless the request accepts audio/wav")
        if name.lower().endswith(".wav"):
            name = name[: -len(".wav")]
        if not name:
            raise errors.invalid("wav_name", "must have a name before .wav")
        if "/" in name:
            raise errors.invalid("wav_name", "must be a name without folders")
        ends = (".txt", ".mid", ".wav")
        return {end: self._roots.output("wav_name", f"{MUSIC}/{name}{end}") for end in ends}


def _wants_audio(req: falcon.Request) -> bool:
    """`Accept: audio/wav` or the like; whoever takes anything gets RWKV Runner's answer."""
    kinds = (falcon.MEDIA_JSON, sound.TYPE)
    return "audio/" in req.accept.lower() and req.client_prefers(kinds) == sound.TYPE


def _font(roots: Roots, given: str | None) -> Path:
    if sound.is_default(given):
        return sound.default_font()
    path = roots.find(sound.FONT, given)
    if not path.is_file():
        raise errors.invalid(sound.FONT, "names a file that does not exist")
    return path


def _save(
    renders: Sound, midi: bytes, font: Path, path: Path, into: str, field: str, client: Client
) -> None:
    """`into` is what errors call the path, `field` the music."""
    try:
        at_disk(path.parent.mkdir, exist_ok=True)
        renders.save(midi, font, path, field, client)
    except OSError as problem:
        raise errors.invalid(into, f"cannot be written: {problem.strerror}") from None
