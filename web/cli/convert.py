"""`rwkv-native convert`: any checkpoint as .safetensors with official names, or as GGUF."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from web.cli import flags
from web.cli.terminal import LoadLine, Refused, adapter_of, cleaning_up

SUMMARY = "write a checkpoint as .safetensors (or GGUF) with official names"
EPILOG = """\
The source may be a .pth (old or new), .safetensors, .st or .gguf file, an index.json of several
files, or a folder of one. The suffix of OUT decides the format. A .safetensors file
written here loads without conversion.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="checkpoint or tuned state to read")
    parser.add_argument("target", metavar="OUT", help="file to write: .safetensors or .gguf")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16", "i8", "i4"),
        help="type of the weights; i8 and i4: large matrices of a .safetensors, packed"
        " (default: each tensor's own; in a .gguf that of most)",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="write the matrices of a .safetensors in the CPU's layout, so that the file is used as"
        " it is mapped, without loading",
    )
    flags.add_adapter(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    target = Path(args.target)
    if target.suffix not in (".safetensors", ".gguf"):
        raise Refused(f"{target}: a target must end in .safetensors or .gguf")
    from rwkv_native import convert

    if target.suffix == ".gguf":
        if args.packed:
            raise Refused(f"{target}: only a .safetensors file can be packed")
        write = convert.to_gguf
    else:
        write = functools.partial(convert.to_safetensors, packed=args.packed)
    merged = adapter_of(flags.adapter_config(args))
    with cleaning_up(), LoadLine(sys.stderr, Path(args.source).name, "converting") as line:
        write(
            args.source,
            target,
            args.dtype,
            force=args.force,
            progress=line.show,
            adapter=merged,
        )
    print(f"{target}: {target.stat().st_size:,} bytes")
    return 0
