"""POST /text-to-midi and /midi-to-text; POST /txt-to-midi, the first of them for files of the
workspace."""

from __future__ import annotations

from pathlib import Path

import falcon
import msgspec

from web import errors
from web.engine.model_host import Runtime
from web.files import workspace_files
from web.files.allowed_paths import Roots
from web.files.uploads import FIELD, uploaded
from web.midi.conversion import TYPE, Conversions
from web.midi.limits import LIMITS
from web.sandbox.process import Client
from web.schemas import fields
from web.schemas.midi import MusicFilesRequest, Score, music_files_request, music_request
from web.threadpool import at_disk
from web.transport.request_body import read_body


class TextToMidiResource:
    """Answers the file."""

    def __init__(self, runtime: Runtime, conversions: Conversions) -> None:
        self._runtime = runtime
        self._conversions = conversions

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), music_request)
        client = Client.of(self._runtime.hangups, req)
        resp.data = self._conversions.to_midi(request.text, "text", client)
        resp.content_type = TYPE


class MidiToTextResource:
    """Takes a file of any name, as a form or as the whole body."""

    def __init__(self, runtime: Runtime, conversions: Conversions) -> None:
        self._runtime = runtime
        self._conversions = conversions

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        client = Client.of(self._runtime.hangups, req)
        text = self._conversions.to_text(uploaded(req).data, FIELD, client)
        resp.data = msgspec.json.encode(Score(text))


class TxtToMidiResource:
    """Reads one file of the workspace and writes another."""

    def __init__(self, runtime: Runtime, conversions: Conversions, roots: Roots) -> None:
        self._runtime = runtime
        self._conversions = conversions
        self._roots = roots

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), music_files_request)
        text, path = at_disk(self._files, request)
        client = Client.of(self._runtime.hangups, req)
        midi = self._conversions.to_midi(text, "txt_path", client, quote=False)
        at_disk(workspace_files.save, path, "midi_path", midi)
        resp.data = b'"success"'

    def _files(self, request: MusicFilesRequest) -> tuple[str, Path]:
        path = self._roots.output("midi_path", request.midi_path)
        source = self._roots.find("txt_path", request.txt_path)
        if source.suffix.lower() != ".txt":
            raise errors.invalid("txt_path", "must name a .txt file")
        data = workspace_files.contents(source, "txt_path", LIMITS.text)
        try:
            return data.decode("utf-8-sig"), path
        except UnicodeDecodeError as problem:
            raise errors.invalid(
                "txt_path", f"names a file that is not UTF-8 at byte {problem.start}"
            ) from None
