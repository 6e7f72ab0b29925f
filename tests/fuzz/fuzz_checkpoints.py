"""Coverage-guided fuzzing of one target of parsers.py, by atheris.

    python tests/fuzz/fuzz_checkpoints.py TARGET FOLDER [libFuzzer options] [more folders]

FOLDER takes the inputs that reach something new. Needs the package `atheris`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Python's reader of zips only where an input is a zip: it makes the other targets slow.
MODULES = ["rwkv_native", *(["zipfile"] if sys.argv[1:2] == ["file"] else [])]
with atheris.instrument_imports(include=MODULES):
    import parsers


def main() -> None:
    name, *rest = sys.argv[1:]
    atheris.Setup([sys.argv[0], *rest], parsers.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
