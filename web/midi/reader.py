"""A MIDI file -> its events in playing order.

Takes what players take: files inside of RIFF or MacBinary, foreign chunks, a wrong count of tracks,
time in frames, events that nobody knows. What it cannot read is a MidiError that names the byte,
so that no note is lost without a word. Called by `transcript.py` and `renderer_child.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from web.midi.limits import Limits, MidiError

_TEMPO = 500_000  # microseconds of a quarter note, where a file says nothing
_MOST_JUNK = 1 << 10  # bytes before the header: 128 of MacBinary
_LONGEST_TIME = 1 << 63  # ticks; the standard has four bytes of seven bits

# Status bytes.
_SYSEX, _ESCAPE, _META = 0xF0, 0xF7, 0xFF
_SYSTEM = {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}
# Types of meta events; all others play nothing.
_END_OF_TRACK, _SET_TEMPO = 0x2F, 0x51


class Kind(enum.Enum):
    """What an event does; the comment says what its number and value are."""

    NOTE_OFF = enum.auto()  # note, velocity
    NOTE_ON = enum.auto()  # note, velocity; velocity 0 is an end as well
    CONTROL = enum.auto()  # controller, value
    PROGRAM = enum.auto()  # program, 0
    BEND = enum.auto()  # 0, -8192 to 8191
    TEMPO = enum.auto()  # 0, microseconds of a quarter note
    END = enum.auto()  # of a track
    OTHER = enum.auto()  # only its time counts


class Event(NamedTuple):
    ticks: int  # since the event before it
    kind: Kind
    channel: int = 0
    number: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class Recording:
    """All tracks of a file as one. tick: seconds, or None where quarter notes are counted;
    resolution: ticks of a quarter note."""

    events: Sequence[Event]
    resolution: int
    tick: float | None = None

    def timed(self) -> Iterator[tuple[float, Event]]:
        """(seconds since the event before it, event)"""
        seconds = self.tick or _TEMPO * 1e-6 / self.resolution
        for event in self.events:
            yield event.ticks * seconds, event
            if event.kind is Kind.TEMPO and self.tick is None:
                seconds = event.value * 1e-6 / self.resolution


def recording(data: bytes, limits: Limits) -> Recording:
    """The events of a file, also of one of type 2, whose tracks are merged, too. Raises
    MidiError."""
    if not data:
        raise MidiError("it is empty")
    if len(data) > limits.file:
        raise MidiError(f"it has {len(data)} bytes; at most {limits.file} are taken")
    begin, end = _body(data)
    head = int.from_bytes(data[begin + 4 : begin + 8], "big")
    if head < 6:
        raise MidiError(f"its header at byte {begin} is shorter than 6 bytes")
    at = begin + 8 + head
    if at > end:
        raise MidiError(f"it ends at byte {end}, in the middle of its header")
    resolution, tick = _division(data, begin + 12)
    promised = int.from_bytes(data[begin + 10 : begin + 12], "big")
    tracks = _tracks(data, at, end, promised, limits)
    return Recording(tracks[0] if len(tracks) == 1 else _merged(tracks), resolution, tick)


def _body(data: bytes) -> tuple[int, int]:
    """Where the file begins and ends in what it is wrapped in."""
    begin, end = 0, len(data)
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        at = 12
        while at + 8 <= end:
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            if data[at : at + 4] == b"data":
                begin, end = at + 8, min(at + 8 + size, end)
                break
            at += 8 + size + size % 2
    found = data.find(b"MThd", begin, min(begin + _MOST_JUNK + 4, end))
    if found < 0:
        raise MidiError(f"it is no MIDI file: there is no MThd in its first {_MOST_JUNK} bytes")
    return found, end


def _division(data: bytes, at: int) -> tuple[int, float | None]:
    """(ticks of a quarter note, seconds of a tick): one of them is what the two bytes say."""
    high, low = data[at], data[at + 1]
    if high < 0x80:
        if not high and not low:
            raise MidiError(f"bytes {at} and {at + 1} say that a quarter note has no length")
        return high << 8 | low, None
    frames = 0x100 - high
    if not low:
        raise MidiError(f"byte {at + 1} says that a frame has no ticks")
    # 29 stands for the 30 frames of American television, which leaves some numbers out.
    return 0, 1 / ((30 / 1.001 if frames == 29 else frames) * low)


def _tracks(data: bytes, at: int, end: int, promised: int, limits: Limits) -> list[list[Event]]:
    """The events of each track there is, whatever number the header has promised."""
    tracks: list[list[Event]] = []
    left = limits.events
    while at < end:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        if name == b"MTrk" and at + 8 <= end:
            track = _Track(data, at, min(at + 8 + size, end))
            tracks.append(track.events(left))
            left -= len(tracks[-1])
            if len(tracks) > limits.tracks:
                raise MidiError(f"it has more than {limits.tracks} tracks")
            if left < 0:
                raise MidiError(f"it has more than {limits.events} events")
            if at + 8 + size > end and track.at == end and not track.ended:
                raise track.cut()
            at = track.at
        elif name.isascii() and name.decode().isprintable() and at + 8 + size <= end:
            if name == b"MThd":  # another file
                break
            at += 8 + size
        elif len(tracks) >= promised or not data[at:end].strip(b"\0"):
            break
        else:
            raise MidiError(
                f"at byte {at} no chunk begins, and only {len(tracks)} of {promised} tracks are"
                " before it"
            )
    if not tracks:
        raise MidiError("it has no tracks")
    return tracks


class _Track:
    """Reads one track, from the byte where its chunk begins to its end. `at`: where it is, or
    where the next chunk begins; `ended`: whether the last event was the end of a track."""

    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self._data = data
        self._begin = begin
        self._end = end
        self.at = begin + 8
        self.ended = False

    def events(self, most: int) -> list[Event]:
        """One more than `most` at most."""
        events: list[Event] = []
        running = None
        data = self._data
        while self.at < self._end and len(events) <= most:
            if self.ended and data[self.at : self.at + 4] == b"MTrk":
                break  # the chunk's length says too much
            ticks = self._number()
            status = self._byte()
            if status < 0x80:
                if running is None:
                    raise MidiError(f"byte {self.at - 1} is an event without a status")
                status = running
                self.at -= 1
            self.ended = False
            if status < _SYSEX:
                # Also behind a sysex or a meta event, which by the standard end it.
                running = status
                events.append(self._channel_event(ticks, status))
            elif status == _META:
                events.append(self._meta(ticks))
            elif status == _ESCAPE:
                events += self._escaped(ticks)
            elif status == _SYSEX:
                self._skip(self._number())
                events.append(Event(ticks, Kind.OTHER))
            elif status in _SYSTEM:
                self._skip(_SYSTEM[status])
                events.append(Event(ticks, Kind.OTHER))
            else:
                raise MidiError(f"byte {self.at - 1} is {status:02x}, which is no event")
        return events

    def cut(self) -> MidiError:
        if self._end == len(self._data):
            return MidiError(f"it ends at byte {self._end}, in the middle of a track")
        return MidiError(
            f"the track at byte {self._begin} ends at byte {self._end}, in the middle of an event"
        )

    def _byte(self) -> int:
        if self.at >= self._end:
            raise self.cut()
        self.at += 1
        return self._data[self.at - 1]

    def _number(self) -> int:
        begin, value = self.at, 0
        while True:
            byte = self._byte()
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
            if value >= _LONGEST_TIME:
                raise MidiError(f"what begins at byte {begin} is too long for a number")

    def _skip(self, size: int) -> None:
        if self.at + size > self._end:
            raise self.cut()
        self.at += size

    def _channel_event(self, ticks: int, status: int) -> Event:
        """Velocities and other values above 7F are those of 7F; a note or program of that number
        would be another one."""
        group, channel = status & 0xF0, status & 0x0F
        number = self._byte()
        if number > 0x7F and group < 0xD0:
            raise MidiError(f"byte {self.at - 1} is {number:02x}, in the place of a number to 7f")
        value = min(self._byte(), 0x7F) if group not in (0xC0, 0xD0) else 0
        match group:
            case 0x80:
                return Event(ticks, Kind.NOTE_OFF, channel, number, value)
            case 0x90:
                return Event(ticks, Kind.NOTE_ON, channel, number, value)
            case 0xB0:
                return Event(ticks, Kind.CONTROL, channel, number, value)
            case 0xC0:
                return Event(ticks, Kind.PROGRAM, channel, number)
            case 0xE0:
                bend = (value << 7 | min(number, 0x7F)) - 0x2000
                return Event(ticks, Kind.BEND, channel, 0, bend)
        return Event(ticks, Kind.OTHER)  # pressure

    def _meta(self, ticks: int) -> Event:
        kind, size = self._byte(), self._number()
        begin = self.at
        self._skip(size)
        if kind == _SET_TEMPO and size >= 3:
            tempo = int.from_bytes(self._data[begin : begin + 3], "big")
            return Event(ticks, Kind.TEMPO, value=tempo)
        self.ended = kind == _END_OF_TRACK
        return Event(ticks, Kind.END if self.ended else Kind.OTHER)

    def _escaped(self, ticks: int) -> list[Event]:
        """Bytes that a player sends as they are: the rest of a sysex, or whole messages, which are
        played."""
        size = self._number()
        end = self.at + size
        events = []
        while self.at + 3 <= min(end, self._end) and 0x80 <= self._data[self.at] < _SYSEX:
            events.append(self._channel_event(0 if events else ticks, self._byte()))
        self._skip(end - self.at)
        return events or [Event(ticks, Kind.OTHER)]


def _merged(tracks: list[list[Event]]) -> list[Event]:
    """By time; of one instant in the order of the tracks. It ends when the last of them does."""
    placed: list[tuple[int, Event]] = []
    last = 0
    for track in tracks:
        now = 0
        for event in track:
            now += event.ticks
            if event.kind is not Kind.END:
                placed.append((now, event))
        last = max(last, now)
    placed.sort(key=lambda one: one[0])
    events = []
    now = 0
    for when, event in placed:
        events.append(event._replace(ticks=when - now))
        now = when
    return [*events, Event(last - now, Kind.END)]
