"""MIDI -> sound: a WAV of 44.1 kHz, stereo, 16 bit, played by FluidSynth in a process of its own
(`sandbox/process.py`, which runs `renderer_child.py`).

Owns the turns of those that want sound, the default SoundFont, and what a client is told where
libfluidsynth is missing. Called by the resources that give sound, and by `rwkv-native music`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import falcon
import gevent
from gevent.lock import BoundedSemaphore

from rwkv_native.formats import atomic_file
from web import errors
from web.admission import Admission
from web.errors import Kind
from web.sandbox import process
from web.threadpool import held_at_disk

TYPE = "audio/wav"
FONT = "sound_font_path"
# RWKV Runner's name for the SoundFont that it brings; ours comes with pretty_midi.
DEFAULT_FONT = "assets/default_sound_font.sf2"
_FONT_FILE = "TimGM6mb.sf2"

MISSING = (
    "sound needs FluidSynth, which is not installed or cannot be loaded; "
    "Debian and Ubuntu: apt install libfluidsynth3"
)
_NO_MIDI, _NO_FONT, _NO_FLUIDSYNTH = 3, 4, 5  # exit codes of the renderer
_HEADER = 44  # bytes of a WAV before its sound
_RATE = 44100 * 8  # bytes per second while it is rendered, in floats; half of it in the end
_RING = 40  # seconds of room for the last notes
_RENDERER = Path(__file__).with_name("renderer_child.py")
_AT_WORK = 2  # children at one time
_MOST = 16  # that wait, are rendered or are being sent, each with a file of up to `length`
_SENDING = 600  # seconds in which a client must have taken its sound
_READ = 64 << 10
_LOOK_EVERY = 0.1  # seconds between two looks at a file that grows


@dataclass(frozen=True, slots=True)
class Limits:
    """What one piece may cost."""

    length: int  # seconds of sound
    seconds: int  # of the clock, and of the CPU
    memory: int  # bytes


def missing() -> bool:
    """Whether libfluidsynth is not installed. A child looks for it: finding a library takes other
    programs, and `subprocess` under gevent reaps every child of this process."""
    with process.memory_file("nothing") as nothing:
        allowance = process.Allowance(seconds=10, memory=1 << 30, output=1 << 10)
        return process.run(_RENDERER, (), nothing, nothing, allowance) == _NO_FLUIDSYNTH


def default_font() -> Path:
    """The SoundFont in the wheel of pretty_midi, which is never imported."""
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise errors.Refusal(
            Kind.NOT_INSTALLED, "pretty_midi is not installed", param=FONT, joint=": "
        )
    return Path(spec.origin).with_name(_FONT_FILE)


def is_default(given: str | None) -> bool:
    """Whether a request's SoundFont is the one that comes with the server."""
    return not given or given == DEFAULT_FONT


class Sound:
    """Renders for all requests, a few at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turn = BoundedSemaphore(_AT_WORK)
        self._places = Admission(_MOST)
        self._found = False

    def check(self) -> None:
        """501 where libfluidsynth is missing: before work that would be lost without it."""
        if not self._found and missing():
            raise errors.not_installed(MISSING)
        self._found = True

    def file(
        self, midi: bytes, font: Path, field: str, client: process.Client | None = None
    ) -> SoundFile:
        """The sound of a MIDI file in a temporary file, which the answer closes. `field` is what
        errors call the music. Raises a Refusal: 400 for the music or the SoundFont, 429 if too many
        are at work, 501 without FluidSynth; and ClientGone."""
        stay = self._places.enter()
        try:
            file = SoundFile(client, stay.leave)
        except OSError:  # no room for temporary files
            stay.leave()
            raise
        try:
            self._render(midi, font, file.fileno(), field, client)
            return file
        except BaseException:
            file.close()
            raise

    def save(
        self,
        midi: bytes,
        font: Path,
        path: Path,
        field: str,
        client: process.Client | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        """The sound as a file of this path, which is whole from its first moment. `tell` gets the
        bytes so far and in the end, now and then. Raises as `file`, and OSError."""
        whole = atomic_file.replacing(path, through_links=False)
        with (
            self._places.enter(),
            held_at_disk(whole) as into,
            _telling(into.fileno(), tell),
        ):
            self._render(midi, font, into.fileno(), field, client)

    def _render(
        self, midi: bytes, font: Path, into: int, field: str, client: process.Client | None
    ) -> None:
        limits = self._limits
        size = _HEADER + (limits.length + _RING) * _RATE
        allowance = process.Allowance(limits.seconds, limits.memory, size)
        arguments = (os.fspath(font), str(limits.length))
        with self._turn, process.memory_file("midi") as given:
            process.fill(given, midi)
            os.lseek(given, 0, os.SEEK_SET)
            code = process.run(_RENDERER, arguments, given, into, allowance, client)
        if code == 0:
            return
        if code == _NO_FLUIDSYNTH:
            raise errors.not_installed(MISSING)
        if code in (_NO_MIDI, _NO_FONT):
            told = os.pread(into, 1 << 10, 0).decode("utf-8", "replace")
            raise errors.unreadable(field if code == _NO_MIDI else FONT, told)
        if code > 0:
            raise RuntimeError(f"the renderer ended with {code}")  # a full disk, or our fault
        raise errors.unreadable(
            field,
            f"it cannot be rendered within {limits.seconds} s and {limits.memory >> 20} MiB of"
            " memory, or its SoundFont is broken",
        )


@contextlib.contextmanager
def _telling(fd: int, tell: Callable[[int, int], None] | None) -> Iterator[None]:
    def look() -> None:
        while True:
            head = os.pread(fd, 8, 0)  # "RIFF" and the bytes after these eight
            if len(head) == 8:
                tell(os.fstat(fd).st_size, 8 + int.from_bytes(head[4:], "little"))
            gevent.sleep(_LOOK_EVERY)

    watcher = gevent.spawn(look) if tell is not None else None
    try:
        yield
    finally:
        if watcher is not None:
            watcher.kill()


class SoundFile:
    """A WAV in a file without a name: the body of an answer. It may be iterated once."""

    def __init__(self, client: process.Client | None, closed: Callable[[], None]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._client = client
        self._closed: Callable[[], None] | None = closed
        self._end: gevent.Greenlet | None = None

    def fileno(self) -> int:
        return self._file.fileno()

    def __len__(self) -> int:
        """In bytes."""
        return os.fstat(self.fileno()).st_size

    def __iter__(self) -> SoundFile:
        if self._end is None:
            self._file.seek(0)
            self._end = gevent.spawn_later(_SENDING, self._give_up)
        return self

    def __next__(self) -> bytes:
        piece = self._file.read(_READ)
        if not piece:
            raise StopIteration
        return piece

    def send(self, resp: falcon.Response) -> None:
        """As the body of an answer."""
        resp.content_type = TYPE
        resp.set_stream(self, len(self))

    def close(self) -> None:
        """Any number of times, at any moment."""
        if self._end is not None:
            self._end.kill(block=False)
        closed, self._closed = self._closed, None
        if closed is not None:
            self._file.close()
            closed()

    def _give_up(self) -> None:
        """The write that waits for the client ends with an error, and the answer with it."""
        if self._client is not None and self._client.sock is not None:
            with contextlib.suppress(OSError):
                self._client.sock.shutdown(socket.SHUT_RDWR)
