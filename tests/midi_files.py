"""MIDI files as programs and people leave them, with the notes that they play. Used by tests/unit
and, as seeds, by tests/fuzz."""

from __future__ import annotations

Notes = list[tuple[float, float, int, int]]  # (second, seconds, note, velocity)

END = b"\0\xff\x2f\0"
C, E = b"\0\x90\x3c\x64", b"\0\x90\x40\x64"
C_OFF, E_OFF = b"\x83\x60\x80\x3c\x40", b"\x83\x60\x80\x40\x40"  # after 480 ticks
TWO = C + C_OFF + E + E_OFF
PLAIN: Notes = [(0, 0.5, 60, 100), (0.5, 0.5, 64, 100)]
BASS = b"\0\x91\x30\x64\x83\x60\x81\x30\x40" + END
BASS_NOTE: Notes = [(0, 0.5, 48, 100)]


def chunk(name: bytes, data: bytes, order: str = "big") -> bytes:
    return name + len(data).to_bytes(4, order) + data


def track(events: bytes) -> bytes:
    return chunk(b"MTrk", events)


def file(*chunks: bytes, count: int = 1, division: int = 480, kind: int = 1) -> bytes:
    numbers = b"".join(number.to_bytes(2, "big") for number in (kind, count, division))
    return chunk(b"MThd", numbers) + b"".join(chunks)


def one(events: bytes, **header: int) -> bytes:
    return file(track(events + END), **header)


def late(seconds: float, notes: Notes) -> Notes:
    return [(begin + seconds, *rest) for begin, *rest in notes]


def frames(number: int, ticks: int, length: int) -> bytes:
    """The two notes in time by frames, each for so many ticks (below 128)."""
    for_one = bytes([length])
    events = C + for_one + b"\x80\x3c\x40" + E + for_one + b"\x80\x40\x40"
    return one(events, division=(0x100 - number) << 8 | ticks)


def meta(kind: int, data: bytes, ticks: bytes = b"\0") -> bytes:
    return ticks + bytes([0xFF, kind, len(data)]) + data


def riff(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"RMID" + b"".join(chunks), "little")


def within(number: bytes) -> bytes:
    """The two notes with an event between them and before the end."""
    return one(C + C_OFF + number + E + E_OFF)


ALIEN = chunk(b"XFIH", b"abcd")
WHOLE = one(TWO)
AFTER_A_SECOND = b"\x87\x40"
KINDS: dict[str, tuple[bytes, Notes]] = {
    "plain": (WHOLE, PLAIN),
    # Time in frames.
    "25 frames of 40 ticks": (frames(25, 40, 100), [(0, 0.1, 60, 100), (0.1, 0.1, 64, 100)]),
    "24 frames of 4 ticks": (frames(24, 4, 48), PLAIN),
    "30 frames of 2 ticks": (frames(30, 2, 30), PLAIN),
    "30 frames less those left out": (
        frames(29, 4, 120),
        [(0, 1.001, 60, 100), (1.001, 1.001, 64, 100)],
    ),
    "frames and a tempo": (
        one(
            meta(0x51, b"\1\0\0") + C + b"\x30\x80\x3c\x40" + E + b"\x30\x80\x40\x40",
            division=0xE804,
        ),
        PLAIN,
    ),
    # Chunks.
    "a foreign chunk before": (file(ALIEN, track(TWO + END)), PLAIN),
    "foreign chunks between": (
        file(track(TWO + END), chunk(b"XFKM", b""), ALIEN, track(BASS), count=2),
        BASS_NOTE + PLAIN,
    ),
    "a foreign chunk behind": (WHOLE + ALIEN, PLAIN),
    "a longer header": (
        b"MThd\0\0\0\x08\0\0\0\1\1\xe0\0\0" + track(TWO + END),
        PLAIN,
    ),
    "more tracks promised than there are": (one(TWO, count=3), PLAIN),
    "fewer promised": (file(track(TWO + END), track(BASS), count=1), BASS_NOTE + PLAIN),
    "none promised": (one(TWO, count=0), PLAIN),
    "all promised": (one(TWO, count=0xFFFF), PLAIN),
    "type 2": (file(track(TWO + END), track(BASS), count=2, kind=2), BASS_NOTE + PLAIN),
    "no end of track": (file(track(TWO)), PLAIN),
    "a last track that claims to be longer": (
        WHOLE.replace(b"MTrk\0\0\0", b"MTrk\0\0\1"),
        PLAIN,
    ),
    "a first track that claims to be longer": (
        file(b"MTrk\0\0\0\x30" + TWO + END, track(BASS), count=2),
        BASS_NOTE + PLAIN,
    ),
    "nulls behind": (one(TWO, count=2) + bytes(300), PLAIN),
    "a web page behind": (WHOLE + b"<html>" * 50, PLAIN),
    "in RIFF": (riff(chunk(b"data", WHOLE, "little")), PLAIN),
    "in RIFF with names before and behind": (
        riff(
            chunk(b"LIST", b"INFO" + b"x" * 2001, "little") + b"\0",
            chunk(b"data", one(TWO, count=2), "little"),
            chunk(b"DLS ", b"y" * 50, "little"),
        ),
        PLAIN,
    ),
    "in MacBinary": (bytes(128) + WHOLE, PLAIN),
    "in MacBinary with its other half": (
        b"\0\4song" + bytes(122) + WHOLE + bytes(-len(WHOLE) % 128) + b"\0\0\1\0" + bytes(252),
        PLAIN,
    ),
    # Bytes of another kind.
    "an escape": (within(b"\0\xf7\1\xf8"), PLAIN),
    "an empty escape": (within(b"\0\xf7\0"), PLAIN),
    "an escape that takes time": (
        within(AFTER_A_SECOND + b"\xf7\2\xf3\1"),
        PLAIN[:1] + late(1, PLAIN[1:]),
    ),
    "an escape of notes": (
        within(b"\0\xf7\6\x91\x30\x64\x91\x37\x64" + b"\x83\x60\xf7\6\x81\x30\x40\x81\x37\x40"),
        [*PLAIN[:1], (0.5, 0.5, 48, 100), (0.5, 0.5, 55, 100), *late(0.5, PLAIN[1:])],
    ),
    "a sysex in two parts": (within(b"\0\xf0\3\x43\x12\0" + b"\0\xf7\2\1\xf7"), PLAIN),
    "a sysex without its end": (within(b"\0\xf0\2\x7e\x7f"), PLAIN),
    "a sysex of high bytes": (within(b"\0\xf0\3\xc8\xfe\xf7"), PLAIN),
    "a clock, a song's place and others": (within(b"\0\xf8\0\xf2\1\2\0\xf3\1\0\xf6\0\xfe"), PLAIN),
    "running status": (one(C + b"\x83\x60\x3c\0" + b"\0\x40\x64" + b"\x83\x60\x40\0"), PLAIN),
    "running status behind a sysex": (
        one(C + b"\0\xf0\3\x7e\1\xf7" + b"\x83\x60\x3c\0" + E + E_OFF),
        PLAIN,
    ),
    "running status behind a meta event": (
        one(C + meta(1, b"hi") + b"\x83\x60\x3c\0" + E + E_OFF),
        PLAIN,
    ),
    "running status behind a clock": (one(C + b"\0\xf8" + b"\x83\x60\x3c\0" + E + E_OFF), PLAIN),
    # Values.
    "velocities above 7f": (
        one(b"\0\x90\x3c\xc8" + C_OFF + b"\0\x90\x40\xff" + E_OFF),
        [(0, 0.5, 60, 127), (0.5, 0.5, 64, 127)],
    ),
    "a volume above 7f": (one(b"\0\xb0\x07\xff" + TWO), PLAIN),
    "a bend above 7f": (within(b"\0\xe0\0\xc0\0\xe0\0\x40"), PLAIN),
    "times with nulls before": (one(C + b"\x80\x80\x80" + C_OFF + E + E_OFF), PLAIN),
    # Meta events.
    "18 sharps": (within(meta(0x59, b"\x12\1")), PLAIN),
    "8 flats": (within(meta(0x59, b"\xf8\0")), PLAIN),
    "a key of one byte": (within(meta(0x59, b"\1")), PLAIN),
    "a tempo of no byte": (within(meta(0x51, b"")), PLAIN),
    "a tempo of two bytes": (within(meta(0x51, b"\1\0")), PLAIN),
    "a tempo of four bytes": (
        one(meta(0x51, b"\x0f\x42\x40\xff") + TWO),
        [(0, 1, 60, 100), (1, 1, 64, 100)],
    ),
    "a time signature of two bytes": (within(meta(0x58, b"\4\2")), PLAIN),
    "a time signature of 2 ** 255": (within(meta(0x58, b"\4\xff\x18\x08")), PLAIN),
    "a time code of one byte": (within(meta(0x54, b"\x60")), PLAIN),
    "a time code of a strange rate": (within(meta(0x54, b"\xff\0\0\0\0")), PLAIN),
    "a channel of no byte": (within(meta(0x20, b"")), PLAIN),
    "a number of no byte": (within(meta(0, b"")), PLAIN),
    "a name in GBK": (within(meta(3, "好".encode("gbk"))), PLAIN),
    "an end of one byte": (file(track(TWO + b"\0\xff\x2f\1\0")), PLAIN),
    "an end in the middle": (within(END), PLAIN),
    # Events that nobody knows, or whose data are wrong, take their time.
    "an unknown event after a second": (
        one(C + meta(0x60, b"\0", AFTER_A_SECOND) + b"\0\x80\x3c\x40" + E + E_OFF),
        [(0, 1, 60, 100), (1, 0.5, 64, 100)],
    ),
    "another unknown event": (
        one(C + meta(0x4B, b"", AFTER_A_SECOND) + b"\0\x80\x3c\x40" + E + E_OFF),
        [(0, 1, 60, 100), (1, 0.5, 64, 100)],
    ),
    "18 sharps after a second": (
        within(meta(0x59, b"\x12\1", AFTER_A_SECOND)),
        PLAIN[:1] + late(1, PLAIN[1:]),
    ),
    "a tempo of two bytes after a second, in the second track": (
        file(track(meta(0x51, b"\1\0", AFTER_A_SECOND) + TWO + END), track(BASS), count=2),
        BASS_NOTE + late(1, PLAIN),
    ),
    "a tempo in another track": (
        file(track(meta(0x51, b"\3\xd0\x90") + END), track(TWO + END), count=2),
        [(0, 0.25, 60, 100), (0.25, 0.25, 64, 100)],
    ),
}
