"""The `rwkv-native` command: serve, chat, generate, music, convert, info, tokenize, bench.

Owns the choice of the command and the exit codes: 0 done, 1 failed, 2 asked wrongly. Each command
is one file here with its flags and its work, and imports what it needs when it runs, so that
`--help` is quick. Nothing puts the current folder on the import path: a source checkout there
cannot shadow the installed package.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import Any, NoReturn

DEBUG = "RWKV_NATIVE_DEBUG"

_EPILOG = f"""\
examples:
  rwkv-native serve                                    the demo model on http://127.0.0.1:8000
  rwkv-native serve --model model.pth --strategy "cpu bf16" --port 8001
  rwkv-native chat --model model.pth
  rwkv-native generate "The capital of France is" --model model.pth --seed 1
  rwkv-native music piece.txt --output piece.wav
  rwkv-native convert model.pth model.safetensors --dtype bf16
  rwkv-native info model.pth
  rwkv-native tokenize "Hello world"
  rwkv-native bench --model model.pth --strategy "cpu bf16"

`rwkv-native COMMAND --help` describes a command. The flags of `serve`, and the flags about the
model everywhere, are environment variables as well: RWKV_NATIVE_MODEL, RWKV_NATIVE_PORT, ... Flags
win. {DEBUG}=1 shows the traceback of an error. RWKV_CPU_ISA forces the kernels of one
instruction set: baseline, avx2, avx2vnni, avx512 or avx512bf16, on 64-bit ARM neon, neondot or
neonbf16.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:  # also one that comes while modules are imported
        return 130


def _run(argv: list[str] | None) -> int:
    from web.cli.terminal import Refused

    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        # argparse itself would show the usage of rwkv-native, not that of the command.
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return args.run(args)
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain again at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(f"rwkv-native: {_said(error)}", file=sys.stderr)
        return 2 if isinstance(error, (Refused, ValueError, FileNotFoundError)) else 1


def _said(error: Exception) -> str:
    """What an error says to a person."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror.lower()}"  # without Python's number
    return str(error) or type(error).__name__


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line: the usage would push it out of sight."""
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` lists what it takes\n")


def _parser() -> argparse.ArgumentParser:
    from web.cli import bench, chat, convert, generate, info, music, serve, tokenize

    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        "rwkv-native",
        description="Run and serve RWKV models.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (serve, chat, generate, music, convert, info, tokenize, bench):
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=raw,
        )
        module.add_flags(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


class _Version(argparse.Action):
    """Asks the engine for its version only when it is wanted."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import rwkv_native as rn

        print(f"rwkv-native {rn.__version__}")
        parser.exit()
