"""A MIDI file -> its messages in playing order. What mido cannot read is a MidiError that names
the byte. Called by `transcript.py`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mido

from web.midi.limits import Limits, MidiError


@dataclass(frozen=True, slots=True)
class Recording:
    """messages: mido's, each with the ticks since the one before it as `time`."""

    resolution: int  # ticks of a quarter note
    messages: Sequence[Any]


def recording(data: bytes, limits: Limits) -> Recording:
    """All tracks of a file as one, also those of type 2. Raises MidiError."""
    if len(data) > limits.file:
        raise MidiError(f"it has {len(data)} bytes; at most {limits.file} are taken")
    midi = _parsed(data)
    if not midi.tracks:
        raise MidiError("it has no tracks")
    if len(midi.tracks) > limits.tracks:
        raise MidiError(f"it has {len(midi.tracks)} tracks; at most {limits.tracks} are taken")
    events = sum(map(len, midi.tracks))
    if events > limits.events:
        raise MidiError(f"it has {events} events; at most {limits.events} are taken")
    if midi.ticks_per_beat == 0:
        raise MidiError("bytes 12 and 13 say that a quarter note has no length")
    # RWKV Runner drops what mido does not know, with the time before it.
    known = [[one for one in track if one.type != "unknown_meta"] for track in midi.tracks]
    messages = known[0] if len(known) == 1 else mido.merge_tracks(known, skip_checks=True)
    return Recording(midi.ticks_per_beat, messages)


def _parsed(data: bytes) -> mido.MidiFile:
    file = io.BytesIO(data)
    try:
        return mido.MidiFile(file=file)
    except MemoryError:
        raise
    except EOFError:
        raise MidiError(f"it ends at byte {len(data)}, in the middle of a track") from None
    except OSError as problem:
        raise MidiError(f"before byte {file.tell()}: {problem}") from None
    except Exception:  # mido raises what the decoding of an event happens to raise
        raise MidiError(f"the event before byte {file.tell()} cannot be decoded") from None
