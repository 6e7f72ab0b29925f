"""The child process of `conversion.py`: one text or MIDI file in, the other out.

Arguments: what to make, "midi" or "text" ("midi unquoted": errors show nothing of the text), and of
which vocabulary. Standard output: the result and
exit code 0, or what is wrong and the code of `conversion.py` for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Run as a file of its own, isolated, by a process with limits (`web/sandbox/limits.py`).
sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))

from web.midi.limits import MidiError
from web.midi.transcript import NothingHeard, midi_to_text
from web.midi.vocabulary import VOCABULARIES
from web.midi.writer import text_to_midi


def main(kind: str, vocabulary: str) -> tuple[bytes, int]:
    """(output, exit code)"""
    given = sys.stdin.buffer.read()
    words = VOCABULARIES[vocabulary]
    try:
        if kind.startswith("midi"):
            return text_to_midi(given.decode(), words, quote=kind == "midi"), 0
        return midi_to_text(given, words).encode(), 0
    except NothingHeard as problem:
        return str(problem).encode(), 2
    except MidiError as problem:
        return str(problem).encode(), 1
    except MemoryError:
        return b"it needs too much memory", 1


if __name__ == "__main__":
    output, code = main(*sys.argv[1:])
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    os._exit(code)  # to take a large piece apart again would take long
