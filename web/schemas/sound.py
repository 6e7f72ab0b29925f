"""POST /midi-to-wav and /text-to-wav: requests as values. Called by `resources/runner/sound.py`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from web.files.allowed_paths import LONGEST
from web.schemas.fields import Fields
from web.schemas.midi import Music, OutputPath, required

_LONGEST_NAME = 200  # characters: 250 bytes less the end, where they are ASCII

MidiFile = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST,
        description="The file to render, in the workspace. 工作目录中的 MIDI 文件。",
    ),
]
WavName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=_LONGEST_NAME,
        description="What the files in the folder midi are called, with or without .wav; not "
        "needed by those who accept audio/wav. midi 文件夹中文件的名称，可省略 .wav。",
    ),
]
SoundFont = Annotated[
    str,
    Meta(
        max_length=LONGEST,
        description="A SoundFont in the workspace; the default comes with the server. "
        "工作目录中的音色库，默认使用服务器自带的音色库。",
    ),
]


class MidiToWavRequest(msgspec.Struct, frozen=True):
    midi_path: MidiFile
    wav_path: OutputPath
    sound_font_path: SoundFont | None = None


class TextToWavRequest(msgspec.Struct, frozen=True):
    text: Music
    wav_name: WavName | None = None
    sound_font_path: SoundFont | None = None


def midi_to_wav_request(fields: Fields) -> MidiToWavRequest:
    paths = required(fields, MidiToWavRequest, "midi_path", "wav_path")
    return MidiToWavRequest(**paths, **fields.plain(MidiToWavRequest, "sound_font_path"))


def text_to_wav_request(fields: Fields) -> TextToWavRequest:
    text = required(fields, TextToWavRequest, "text")
    return TextToWavRequest(**text, **fields.plain(TextToWavRequest, "wav_name", "sound_font_path"))
