"""What FluidSynth plays: how long it lasts, when it sounds and how high, and what is refused.

After the last event the notes ring out, and two seconds more, as with FluidSynth's own player.

Real renderings with the default SoundFont; they need libfluidsynth (`make test` installs it where
it may).
"""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import wave
from pathlib import Path

import gevent
import mido
import numpy as np
import pytest
from serving import SOAK

from web import errors
from web.errors import Kind
from web.midi import renderer_child, sound
from web.midi.limits import MidiError
from web.midi.sound import Limits, Sound
from web.midi.transcript import midi_to_text
from web.sandbox.process import Client
from web.transport.disconnects import Hangups

pytestmark = pytest.mark.skipif(sound.missing(), reason=sound.MISSING)

RATE = 44100
BUFFER = 64  # frames between two moments at which FluidSynth hears events
AFTER = 2  # seconds after the last sound
TICKS = 480  # of a quarter note, which lasts half a second
SOUND = Sound(Limits(length=30, seconds=60, memory=1 << 30))


def midi(*messages: mido.Message | mido.MetaMessage, **header: int) -> bytes:
    file = mido.MidiFile(ticks_per_beat=TICKS, **header)
    file.tracks.append(mido.MidiTrack(messages))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def on(note: int, after: float = 0, **more: int) -> mido.Message:
    """A note `after` so many seconds."""
    return mido.Message("note_on", note=note, velocity=100, time=round(after * 2 * TICKS), **more)


def off(note: int, after: float = 0, **more: int) -> mido.Message:
    return mido.Message("note_off", note=note, time=round(after * 2 * TICKS), **more)


def dry(channel: int = 0) -> list[mido.Message]:
    """Without echo, so that silence is silent."""
    controls = {91: 0, 93: 0}
    return [
        mido.Message("control_change", channel=channel, control=c, value=v)
        for c, v in controls.items()
    ]


def played(data: bytes, font: Path | None = None, sound: Sound = SOUND) -> np.ndarray:
    """The frames of a piece, [frames, 2] between -1 and 1."""
    with sound_file(data, font, sound) as out:
        assert (out.getframerate(), out.getnchannels(), out.getsampwidth()) == (RATE, 2, 2)
        raw = out.readframes(out.getnframes())
    return np.frombuffer(raw, "<i2").reshape(-1, 2) / 32768


def sound_file(data: bytes, font: Path | None, renders: Sound) -> wave.Wave_read:
    file = renders.file(data, font or sound.default_font(), "midi")
    try:
        raw = b"".join(file)
        assert len(raw) == len(file)
    finally:
        file.close()
    return wave.open(io.BytesIO(raw))


def loudness(frames: np.ndarray, begin: float, end: float) -> float:
    """The root mean square of some seconds."""
    part = frames[round(begin * RATE) : round(end * RATE)]
    return float(np.sqrt(np.mean(part**2)))


def fundamental(frames: np.ndarray, begin: float, end: float) -> float:
    """In Hz: the lowest frequency with a fifth of the greatest amplitude."""
    part = frames[round(begin * RATE) : round(end * RATE)].mean(axis=1)
    size = 1 << 17  # padded: 0.34 Hz between two values
    amplitudes = np.abs(np.fft.rfft(part * np.hanning(len(part)), size))
    floor = round(30 * size / RATE)
    first = floor + int(np.argmax(amplitudes[floor:] > amplitudes[floor:].max() / 5))
    while amplitudes[first + 1] > amplitudes[first]:
        first += 1
    return first * RATE / size


def hertz(note: int) -> float:
    return 440 * 2 ** ((note - 69) / 12)


def test_it_lasts_as_long_as_the_piece_and_sounds_when_it_should() -> None:
    """A flute at 1 s for half a second, another at 2.5 s, silence around them."""
    flute = mido.Message("program_change", program=73)
    notes = [on(76, 1), off(76, 0.5), on(69, 1), off(69, 0.5), on(69, 0.7), off(69, 0.1)]
    data = midi(*dry(), flute, *notes, mido.MetaMessage("end_of_track", time=2 * TICKS))
    frames = played(data)
    seconds = mido.MidiFile(file=io.BytesIO(data)).length
    assert seconds == pytest.approx(4.8)
    assert abs(len(frames) - (seconds + AFTER) * RATE) <= BUFFER

    quiet, loud = 4e-3, 0.2
    assert loudness(frames, 0, 0.998) < quiet
    assert loudness(frames, 1.1, 1.5) > loud
    assert loudness(frames, 2.1, 2.498) < quiet
    assert loudness(frames, 2.6, 3.0) > loud
    assert loudness(frames, 4.8, 6.8) < quiet
    first = np.flatnonzero(np.abs(frames).max(axis=1) > 0.02)[0]
    assert RATE <= first < 1.05 * RATE  # a flute takes a moment to speak

    assert fundamental(frames, 1.15, 1.5) == pytest.approx(hertz(76), rel=0.01)
    assert fundamental(frames, 2.65, 3.0) == pytest.approx(hertz(69), rel=0.01)


@pytest.mark.parametrize("note", [45, 81])
def test_the_piano_plays_the_notes(note: int) -> None:
    frames = played(midi(on(note), off(note, 1)))
    assert fundamental(frames, 0.1, 0.9) == pytest.approx(hertz(note), rel=0.01)


def test_the_tempo_changes_where_the_file_says() -> None:
    slow = mido.MetaMessage("set_tempo", tempo=1_000_000)
    # 0.5 s, then twice 0.5 s at half the speed
    frames = played(midi(on(60), off(60, 0.5), slow, on(72, 0.5), off(72, 0.5)))
    assert fundamental(frames, 1.6, 2.4) == pytest.approx(hertz(72), rel=0.01)


# FluidSynth's own player and file, as RWKV Runner runs them; it ends by itself.
PLAYER = """
import sys, fluidsynth as f
font, piece, out = map(str.encode, sys.argv[1:])
settings = f.new_fluid_settings()
f.fluid_settings_setstr(settings, b"audio.file.name", out)
f.fluid_settings_setstr(settings, b"player.timing-source", b"sample")
synth = f.new_fluid_synth(settings)
f.fluid_synth_sfload(synth, font, 1)
player = f.new_fluid_player(synth)
f.fluid_player_add(player, piece)
f.fluid_player_play(player)
file = f.new_fluid_file_renderer(synth)
while f.fluid_player_get_status(player) == 1:
    f.fluid_file_renderer_process_block(file)
f.delete_fluid_file_renderer(file)
"""


@pytest.mark.parametrize("last", [[off(45, 1)], [off(45, 0.2), off(45, 2)], []])
def test_it_is_what_fluidsynth_plays(last: list[mido.Message], tmp_path: Path) -> None:
    """As long and as loud, with notes that end, fade or are held for ever."""
    piece, out = tmp_path / "piece.mid", tmp_path / "out.wav"
    piece.write_bytes(midi(on(45), on(69, 0.5), off(69, 0.5), *last))
    command = [sys.executable, "-c", PLAYER, sound.default_font(), piece, out]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=60)
    with wave.open(str(out)) as file:
        theirs = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32768
    theirs *= 10 ** (-1 / 20) / np.abs(theirs).max()  # to our level
    ours = played(piece.read_bytes())
    # Their clock counts milliseconds, and begins with a few.
    assert abs(len(ours) - len(theirs)) <= 5 * BUFFER
    assert len(ours) >= (mido.MidiFile(piece).length + AFTER) * RATE - BUFFER
    for begin in np.arange(0, len(ours) / RATE - AFTER, 0.25):
        theirs_now = loudness(theirs, begin, begin + 0.25)
        assert loudness(ours, begin, begin + 0.25) == pytest.approx(theirs_now, rel=0.15, abs=0.02)


def test_programs_bends_and_volumes_are_heard() -> None:
    note = [on(60), off(60, 0.5)]
    plain = played(midi(*note))[:RATE]
    for message in (
        mido.Message("program_change", program=40),
        mido.Message("pitchwheel", pitch=8191),
        mido.Message("control_change", control=7, value=30),
    ):
        other = played(midi(message, *note))[:RATE]
        assert np.abs(other - plain).max() > 1e-3, message
    bent = played(midi(mido.Message("pitchwheel", pitch=8191), *note))
    assert fundamental(bent, 0.1, 0.5) == pytest.approx(hertz(62), rel=0.01)


def test_the_tenth_channel_is_percussion() -> None:
    frames = played(midi(on(38, channel=9), off(38, 0.5, channel=9)))
    assert loudness(frames, 0, 0.1) > 1e-2 > loudness(frames, 0.4, 0.5)


def test_two_tracks_play_together() -> None:
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    file.tracks += [mido.MidiTrack([on(45), off(45, 1)]), mido.MidiTrack([on(81, 1), off(81, 1)])]
    out = io.BytesIO()
    file.save(file=out)
    frames = played(out.getvalue())
    assert fundamental(frames, 0.1, 0.9) == pytest.approx(hertz(45), rel=0.01)


def refusal(data: bytes, font: Path | None = None, sound: Sound = SOUND) -> errors.Refusal:
    with pytest.raises(errors.Refusal) as caught:
        played(data, font, sound)
    assert sound._places.inside == 0
    return caught.value


NOTE = midi(on(60), off(60, 0.1))


def counted(resolution: bytes) -> bytes:
    return NOTE[:12] + resolution + NOTE[14:]


@pytest.mark.parametrize(
    "data",
    [b"", b"no MIDI", NOTE[:-3], counted(b"\0\0"), counted(b"\xe7\0")],
    ids=["empty", "text", "cut", "no resolution", "no ticks"],
)
def test_what_is_no_midi_is_refused_as_for_its_text(data: bytes) -> None:
    problem = refusal(data)
    assert (problem.kind, problem.param) == (Kind.INVALID, "midi")
    with pytest.raises(MidiError) as caught:
        midi_to_text(data)
    assert problem.detail == str(caught.value)


def test_every_piece_is_as_loud_as_a_file_can_be() -> None:
    """Two notes of a piano reached 4 % of full scale, and forty-eight at once 72 %."""
    two = played(midi(on(60), off(60, 0.5), on(64), off(64, 0.5)))
    many = [on(30 + i, channel=i % 9) for i in range(48)]
    full = played(midi(*many, off(30, 0.5)))
    for frames in (two, full):
        assert np.abs(frames).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)
    # What is very soft stays soft, and silence silent.
    soft = mido.Message("note_on", note=60, velocity=4)
    assert np.abs(played(midi(soft, off(60, 0.5)))).max() < 0.1
    assert not played(midi(mido.MetaMessage("end_of_track", time=TICKS))).any()


def test_mutated_files_are_refused_or_played() -> None:
    random = np.random.default_rng(1)
    whole = midi(*dry(), on(60), off(60, 0.1), on(61), off(61, 0.1))
    for _ in range(500 if SOAK else 5):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 6)):
            data[place] = random.choice([0, 1, 127, 128, 255])
        try:
            played(bytes(data))
        except errors.Refusal as problem:
            assert problem.kind is Kind.INVALID and problem.param == "midi"


def test_a_header_that_promises_much_is_refused() -> None:
    assert "byte 26" in refusal(NOTE[:4] + b"\x7f\xff\xff\xff" + NOTE[8:26]).detail


def test_a_piece_that_is_too_long_is_refused() -> None:
    assert "it lasts 31 s, and this server renders at most 30 s" in str(refusal(midi(on(1, 31))))


def broken_fonts() -> dict[str, bytes]:
    whole = sound.default_font().read_bytes()
    pieces = bytearray(whole)
    pieces[-200_000::7] = bytes(len(pieces[-200_000::7]))  # where the instruments are described
    return {"empty": b"", "text": b"RIFF" * 100, "cut": whole[:100_000], "garbled": bytes(pieces)}


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "garbled"])
def test_a_hostile_soundfont_is_refused_or_played(kind: str, tmp_path: Path) -> None:
    font = tmp_path / "font.sf2"
    font.write_bytes(broken_fonts()[kind])
    try:
        played(NOTE, font)
    except errors.Refusal as problem:
        assert problem.kind is Kind.INVALID and str(tmp_path) not in problem.message
    else:
        assert kind == "garbled"


def test_another_soundfont(tmp_path: Path) -> None:
    font = tmp_path / "-a Font.sf2"  # no option of a command
    font.symlink_to(sound.default_font())
    assert np.array_equal(played(NOTE, font), played(NOTE))


def test_limits_hold() -> None:
    """A process that takes too long or too much memory ends, and nothing else does."""
    quick = Sound(Limits(length=20_000, seconds=1, memory=1 << 30))
    endless = mido.MetaMessage("end_of_track", time=10_000 * 2 * TICKS)
    problem = refusal(midi(on(60), endless), sound=quick)
    assert problem.kind is Kind.INVALID and "within 1 s" in problem.message
    small = Sound(Limits(length=10, seconds=60, memory=128 << 20))
    events = b"\0\x90\x3c\x40" + b"\0\x3c\x40" * 390_000 + b"\0\xff\x2f\0"
    many = NOTE[:14] + b"MTrk" + len(events).to_bytes(4, "big") + events
    assert refusal(many, sound=small).detail == "it needs too much memory"


def test_only_so_many_sounds_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is being sent one holds it, until it is closed."""
    monkeypatch.setattr(sound, "_MOST", 2)
    font, studio = sound.default_font(), Sound(Limits(length=30, seconds=60, memory=1 << 30))
    held = [studio.file(NOTE, font, "midi") for _ in range(2)]
    with pytest.raises(errors.Refusal) as caught:
        studio.file(NOTE, font, "midi")
    assert caught.value.kind is Kind.BUSY
    for file in held:
        file.close()
        file.close()
    studio.file(NOTE, font, "midi").close()
    assert studio._places.inside == 0


def test_a_client_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "_SENDING", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        file = SOUND.file(NOTE, sound.default_font(), "midi", Client(Hangups(), ours))
        next(iter(file))
        gevent.sleep(0.2)
        assert theirs.recv(1) == b""
        file.close()


def test_a_time_without_end_is_refused() -> None:
    events = b"\xff" * 1000 + b"\x7f\x90\x3c\x40\0\xff\x2f\0"
    data = NOTE[:14] + b"MTrk" + len(events).to_bytes(4, "big") + events
    assert "too long for a number" in refusal(data).detail


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(errors.Refusal):
        SOUND.save(b"no MIDI", sound.default_font(), path, "midi")
    assert not list(tmp_path.iterdir())
    SOUND.save(NOTE, sound.default_font(), path, "midi")
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size > 44 + 4 * round(0.1 * RATE)


@pytest.mark.parametrize("raised", ["OSError('invalid ELF header')", "AttributeError('fluid_x')"])
def test_a_broken_library_is_none(
    raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fluidsynth.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fluidsynth", raising=False)
    with pytest.raises(renderer_child.NoFluidSynth):
        renderer_child._fluidsynth()
