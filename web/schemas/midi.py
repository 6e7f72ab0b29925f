"""POST /text-to-midi, /midi-to-text, /txt-to-midi: requests and answers. Called by
`resources/runner/midi.py`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from web.files.allowed_paths import LONGEST
from web.schemas.fields import Fields

Music = Annotated[
    str,
    Meta(
        description="Tokens between blanks: instrument:note:velocity, waits of 8 ms, marks. "
        "以空格分隔的音符、等待与标记。",
        examples=["pi:3c:a t62 pi:3c:0"],
    ),
]
TextPath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST,
        description="The text to convert, in the workspace. 工作目录中的文本文件。",
    ),
]
OutputPath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST,
        description="The file to write, in the workspace's folder midi. "
        "写入工作目录 midi 文件夹中的文件。",
    ),
]


class MusicRequest(msgspec.Struct, frozen=True):
    text: Music


class MusicFilesRequest(msgspec.Struct, frozen=True):
    txt_path: TextPath
    midi_path: OutputPath


class Score(msgspec.Struct, frozen=True):
    """The answer of /midi-to-text."""

    text: str


def music_request(fields: Fields) -> MusicRequest:
    return MusicRequest(**required(fields, MusicRequest, "text"))


def music_files_request(fields: Fields) -> MusicFilesRequest:
    return MusicFilesRequest(**required(fields, MusicFilesRequest, "txt_path", "midi_path"))


def required(fields: Fields, struct: type[msgspec.Struct], *names: str) -> dict[str, str]:
    """These fields of a struct; none may be missing."""
    given = fields.plain(struct, *names)
    for name, value in given.items():
        if value is None:
            raise fields.wrong(name, "is required")
    return given
