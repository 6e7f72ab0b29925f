"""Coverage-guided fuzzing of one target of parsers.py, by atheris.

    python tests/fuzz/fuzz_checkpoints.py TARGET FOLDER [libFuzzer options] [more folders]

FOLDER takes the inputs that reach something new. Needs the package `atheris`.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent))
import parsers

# Python's reader of zips only where an input is a zip: it makes the other targets slow.
MODULES = {"rwkv_native", "web", "mido", *(["zipfile"] if sys.argv[1:2] == ["file"] else [])}


def instrument() -> None:
    """Every function of MODULES reports its edges from here on.

    Not by atheris' import hook: the finder of an editable install comes before it.
    """
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in MODULES:
            continue
        owners = [module, *(x for x in vars(module).values() if isinstance(x, type))]
        for member in [m for owner in owners for m in list(vars(owner).values())]:
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(function, types.FunctionType) and function.__module__ == name:
                atheris.instrument_func(function)


def main() -> None:
    name, *rest = sys.argv[1:]
    instrument()
    atheris.Setup([sys.argv[0], *rest], parsers.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
