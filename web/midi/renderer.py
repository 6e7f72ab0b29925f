"""The child process of `sound.py`: one MIDI file in, its sound out, as FluidSynth plays it.
Whatever a file or a SoundFont makes a C library do ends with this process.

Arguments: the SoundFont, and the most seconds that a piece may last. Standard input: the MIDI file.
Standard output, a file: a WAV and exit code 0, or what is wrong with the MIDI file and 3, with the
SoundFont and 4; 5 without FluidSynth (1 and 2 are Python's own). Without arguments it only looks
for that. It runs as a file of its own (`python -I`), so it imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import wave
from collections.abc import Iterator
from typing import Any

import mido

RATE = 44100  # frames per second, each of two 16-bit samples
_FRAME = 4  # bytes
_CHANNELS = 16
_AT_ONCE = 8192  # frames
_BUFFER = 64  # frames between two moments at which FluidSynth hears events
# After the last event: until every note has rung, and the silence that FluidSynth's player adds.
_LONGEST_RING = 30  # seconds, for an organ whose key nobody lets go
_SILENCE = 2  # seconds


class Unusable(Exception):
    """What the client is told."""

    code = 3


class UnusableFont(Unusable):
    code = 4


class NoFluidSynth(Unusable):
    code = 5


def render(font: str, most_seconds: float) -> None:
    synth = _Synth(font)
    piece = _Piece(sys.stdin.buffer.read())
    seconds = piece.seconds()
    if seconds > most_seconds:
        raise Unusable(
            f"it lasts {seconds:.0f} s, and this server renders at most {most_seconds:g} s"
        )
    with wave.open(sys.stdout.buffer, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(_FRAME // 2)
        out.setframerate(RATE)
        out.setnframes(round(seconds * RATE))  # at least; the end of the piece corrects it
        at = 0
        for when, message in piece.events():
            at += synth.write(out, round(when * RATE) - at)
            synth.play(message)
        synth.ring(out)


class _Piece:
    """A MIDI file, its tracks as one."""

    def __init__(self, data: bytes) -> None:
        file = io.BytesIO(data)  # of which nobody can read more than there is
        try:
            parsed = mido.MidiFile(file=file)
            self._ticks_per_beat = parsed.ticks_per_beat
            self._messages = mido.merge_tracks(parsed.tracks)
        except MemoryError:
            raise
        except EOFError:
            raise Unusable(f"it ends at byte {len(data)}, in the middle of a track") from None
        except Exception:  # mido raises what the decoding of an event happens to raise
            raise Unusable(f"what is before byte {file.tell()} is no MIDI") from None
        if self._ticks_per_beat <= 0:
            raise Unusable("its time is not counted in quarter notes (SMPTE)")

    def events(self) -> Iterator[tuple[float, Any]]:
        """(seconds from the start, message) of everything in the file."""
        tempo, now = 500_000, 0.0
        for message in self._messages:
            now += mido.tick2second(message.time, self._ticks_per_beat, tempo)
            if message.type == "set_tempo":
                tempo = message.tempo
            yield now, message

    def seconds(self) -> float:
        """Until the last event."""
        now = 0.0
        try:
            for when, _ in self.events():
                now = when
        except OverflowError:  # times in MIDI files may have any number of digits
            raise Unusable("a time between two events is too long for a number") from None
        return now


def _fluidsynth() -> Any:
    """The module, which cannot be imported without the library."""
    try:
        import fluidsynth
    except ImportError:
        raise NoFluidSynth from None
    return fluidsynth


class _Synth:
    """FluidSynth with one SoundFont and the settings of its own command."""

    def __init__(self, font: str) -> None:
        fluidsynth = self._c = _fluidsynth()
        # One thread works here, and a large font need not lie in memory as a whole.
        options = {"synth.threadsafe-api": 0, "synth.dynamic-sample-loading": 1}
        self._synth = fluidsynth.Synth(samplerate=RATE, channels=_CHANNELS, **options)
        if self._synth.sfload(font, update_midi_preset=1) < 0:
            raise UnusableFont("is not a SoundFont that can be played")
        self._buffer = ctypes.create_string_buffer(_AT_ONCE * _FRAME)

    def write(self, out: wave.Wave_write, frames: int) -> int:
        """The sound of so many frames from now on."""
        left = frames
        while left > 0:
            count = min(left, _AT_ONCE)
            # Left and right alternate in one buffer: offset 0 and 1, step 2.
            self._c.fluid_synth_write_s16(
                self._synth.synth, count, self._buffer, 0, 2, self._buffer, 1, 2
            )
            out.writeframesraw(memoryview(self._buffer)[: count * _FRAME])
            left -= count
        return max(frames, 0)

    def ring(self, out: wave.Wave_write) -> None:
        """The sound after the last event."""
        left = _LONGEST_RING * RATE
        while left > 0 and self._synth.get_active_voice_count():
            left -= self.write(out, _BUFFER)
        self._synth.all_notes_off(-1)  # of all channels
        self.write(out, _SILENCE * RATE)

    def play(self, message: Any) -> None:
        """One event, now; those that sound nothing, and those of one device's own, are left out."""
        synth = self._synth
        match message.type:
            case "note_on":
                synth.noteon(message.channel, message.note, message.velocity)
            case "note_off":
                synth.noteoff(message.channel, message.note)
            case "program_change":
                synth.program_change(message.channel, message.program)
            case "control_change":
                synth.cc(message.channel, message.control, message.value)
            case "pitchwheel":
                synth.pitch_bend(message.channel, message.pitch)


def main(arguments: list[str]) -> int:
    """The exit code."""
    try:
        if arguments:
            font, most_seconds = arguments
            render(font, float(most_seconds))
            sys.stdout.buffer.flush()
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
