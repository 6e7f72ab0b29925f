"""The child process of `sound.py`: one MIDI file in, its sound out, as FluidSynth plays it and as
loud as a WAV can be. Whatever a file or a SoundFont makes a C library do ends with this process.

FluidSynth's own level leaves room for hundreds of voices: two notes of a piano reach 4 % of full
scale, a band 25 %, an orchestra 70 %. So the sound is written as floats first, and brought to one
peak in the same file when all of it is known.

Arguments: the SoundFont, and the most seconds that a piece may last. Standard input: the MIDI file.
Standard output, a file: a WAV and exit code 0, or what is wrong with the MIDI file and 3, with the
SoundFont and 4; 5 without FluidSynth (1 and 2 are Python's own). Without arguments it only looks
for that.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Any

# Run as a file of its own, isolated, by a process with limits (`web/sandbox/limits.py`).
sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))

from web.midi.limits import LIMITS, MidiError
from web.midi.reader import Event, Kind, recording

RATE = 44100  # frames per second, each of two 16-bit samples
_FRAME, _FLOATS = 4, 8  # bytes of a frame, as it is answered and as it is rendered
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_PEAK = 10 ** (-1 / 20)  # of full scale: a decibel below, for players that resample
_MOST_GAIN = 10 ** (40 / 20)  # a single piano note needs 30 dB; what is softer is meant to be
_CHANNELS = 16
_AT_ONCE = 8192  # frames
_BUFFER = 64  # frames between two moments at which FluidSynth hears events
# After the last event: until every note has rung, and the silence that FluidSynth's player adds.
_LONGEST_RING = 30  # seconds, for an organ whose key nobody lets go
_SILENCE = 2  # seconds
# The others sound nothing, or are of one device's own.
_PLAYED = {Kind.NOTE_ON, Kind.NOTE_OFF, Kind.PROGRAM, Kind.CONTROL, Kind.BEND}


class Unusable(Exception):
    """What the client is told."""

    code = 3


class UnusableFont(Unusable):
    code = 4


class NoFluidSynth(Unusable):
    code = 5


def render(font: str, most_seconds: float) -> None:
    synth = _Synth(font)
    events, seconds = played(sys.stdin.buffer.read())
    if seconds > most_seconds:
        raise Unusable(
            f"it lasts {seconds:.0f} s, and this server renders at most {most_seconds:g} s"
        )
    out = _Output(round(seconds * RATE))
    for when, event in events:
        synth.write(out, round(when * RATE) - out.frames)
        synth.play(event)
    synth.write(out, round(seconds * RATE) - out.frames)
    synth.ring(out)
    out.finish()


def played(data: bytes) -> tuple[list[tuple[float, Event]], float]:
    """([(seconds from the start, event)] of all that a file plays, seconds until its end)"""
    try:
        heard = recording(data, LIMITS)
    except MidiError as problem:
        raise Unusable(str(problem)) from None
    events = []
    now = 0.0
    for passed, event in heard.timed():
        now += passed
        if event.kind in _PLAYED:
            events.append((now, event))
    return events, now


def _fluidsynth() -> Any:
    """The module, which cannot be imported without the library, or with one that is broken: loading
    it is an OSError then, looking up its functions an AttributeError."""
    try:
        import fluidsynth
    except (ImportError, OSError, AttributeError):
        raise NoFluidSynth from None
    return fluidsynth


class _Output:
    """Standard output: frames of two floats, until `finish` makes a WAV of 16 bits of them."""

    def __init__(self, expected: int) -> None:
        # One thread works here, and its memory has a limit.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        try:
            import numpy
        except ImportError:  # it is there; its libraries did not find room
            raise MemoryError from None
        self._numpy = numpy
        self._fd = sys.stdout.fileno()
        self._peak = 0.0
        self.frames = 0
        # Whoever looks at the growing file sees how large it will be at least.
        os.write(self._fd, _header(expected, _FLOATS))

    def write(self, floats: memoryview) -> None:
        samples = self._numpy.frombuffer(floats, "=f4")
        self._peak = max(self._peak, float(self._numpy.abs(samples).max()))
        self.frames += len(floats) // _FLOATS
        while floats:
            floats = floats[os.write(self._fd, floats) :]

    def finish(self) -> None:
        """In place, from the first frame on: what is written is always behind what is read."""
        gain = min(_PEAK / self._peak, _MOST_GAIN) * 0x7FFF if self._peak else 0.0
        for at in range(0, self.frames, _AT_ONCE):
            count = min(_AT_ONCE, self.frames - at)
            floats = os.pread(self._fd, count * _FLOATS, _HEADER.size + at * _FLOATS)
            samples = self._numpy.rint(self._numpy.frombuffer(floats, "=f4") * gain)
            os.pwrite(self._fd, samples.astype("<i2").tobytes(), _HEADER.size + at * _FRAME)
        os.ftruncate(self._fd, _HEADER.size + self.frames * _FRAME)
        os.pwrite(self._fd, _header(self.frames, _FRAME), 0)


def _header(frames: int, frame: int) -> bytes:
    """Of a WAV with so many frames of so many bytes each: two of 16 bits, or of floats."""
    size = min(frames * frame, 0xFFFF_FFFF - 36)
    coding = 1 if frame == _FRAME else 3
    layout = (16, coding, 2, RATE, RATE * frame, frame, frame * 4)
    return _HEADER.pack(b"RIFF", 36 + size, b"WAVE", b"fmt ", *layout, b"data", size)


class _Synth:
    """FluidSynth with one SoundFont and the settings of its own command."""

    def __init__(self, font: str) -> None:
        fluidsynth = self._c = _fluidsynth()
        # One thread works here, and a large font need not lie in memory as a whole.
        options = {"synth.threadsafe-api": 0, "synth.dynamic-sample-loading": 1}
        self._synth = fluidsynth.Synth(samplerate=RATE, channels=_CHANNELS, **options)
        if self._synth.sfload(font, update_midi_preset=1) < 0:
            raise UnusableFont("is not a SoundFont that can be played")
        kinds = (ctypes.c_void_p, ctypes.c_int, *(ctypes.c_void_p, ctypes.c_int, ctypes.c_int) * 2)
        names = ("synth", "len", "lbuf", "loff", "lincr", "rbuf", "roff", "rincr")
        arguments = [(name, kind, 1) for name, kind in zip(names, kinds, strict=True)]
        self._write = fluidsynth.cfunc("fluid_synth_write_float", ctypes.c_int, *arguments)
        self._buffer = ctypes.create_string_buffer(_AT_ONCE * _FLOATS)

    def write(self, out: _Output, frames: int) -> None:
        """The sound of so many frames from now on."""
        while frames > 0:
            count = min(frames, _AT_ONCE)
            # Left and right alternate in one buffer: offset 0 and 1, step 2.
            self._write(self._synth.synth, count, self._buffer, 0, 2, self._buffer, 1, 2)
            out.write(memoryview(self._buffer)[: count * _FLOATS])
            frames -= count

    def ring(self, out: _Output) -> None:
        """The sound after the last event."""
        end = out.frames + _LONGEST_RING * RATE
        while out.frames < end and self._synth.get_active_voice_count():
            self.write(out, _BUFFER)
        self._synth.all_notes_off(-1)  # of all channels
        self.write(out, _SILENCE * RATE)

    def play(self, event: Event) -> None:
        """One event, now."""
        synth = self._synth
        match event.kind:
            case Kind.NOTE_ON:
                synth.noteon(event.channel, event.number, event.value)
            case Kind.NOTE_OFF:
                synth.noteoff(event.channel, event.number)
            case Kind.PROGRAM:
                synth.program_change(event.channel, event.number)
            case Kind.CONTROL:
                synth.cc(event.channel, event.number, event.value)
            case Kind.BEND:
                synth.pitch_bend(event.channel, event.value)


def main(arguments: list[str]) -> int:
    """The exit code."""
    try:
        if arguments:
            font, most_seconds = arguments
            render(font, float(most_seconds))
        else:
            _fluidsynth()
        return 0
    except Unusable as problem:
        told, code = str(problem), problem.code
    except MemoryError:
        told, code = "it needs too much memory", Unusable.code
    os.ftruncate(1, 0)
    os.pwrite(1, told.encode("utf-8", "replace"), 0)
    return code


if __name__ == "__main__":
    # The end of an interpreter takes long after a large file.
    os._exit(main(sys.argv[1:]))
