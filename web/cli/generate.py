"""`rwkv-native generate`: continues a text, without any chat format."""

from __future__ import annotations

import argparse
import json
import sys
import time

from web.cli import flags
from web.cli.terminal import Refused, opened, sampling_of, speed, state_of
from web.config import MODEL

SUMMARY = "continue a text"
EPILOG = """\
The prompt is used as it is; `rwkv-native chat` adds a chat format. The continuation goes to
standard output while it is drawn. --json prints one object at the end instead: text, token_ids,
finish_reason, prompt_tokens, completion_tokens, seconds. On a terminal the speed follows.

examples:
  rwkv-native generate "The capital of France is" --max-tokens 20 --temperature 0
  cat story.txt | rwkv-native generate --max-tokens 200 --seed 1 --stop "THE END"
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt", nargs="?", help="text to continue (default, and -: standard input)"
    )
    flags.add_settings(parser, MODEL)
    flags.add_sampling(parser, state=True)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop sequence; may be given several times (default: none)",
    )
    group.add_argument("--echo", action="store_true", help="print the prompt first")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object instead of the text"
    )


def run(args: argparse.Namespace) -> int:
    from web.engine.families import persona_for

    given = sys.stdin.read() if args.prompt in (None, "-") else args.prompt
    # Bytes that are not UTF-8 come as halves of surrogate pairs, which no tokenizer takes.
    prompt = given.encode(errors="replace").decode()
    if not prompt:
        raise Refused("the prompt is empty")
    with opened(args) as (model, tokenizer, engine):
        sampling = sampling_of(args, persona_for(model.info, tokenizer), args.stop)
        begun = time.monotonic()
        text: list[str] = [prompt] if args.echo else []
        ids: list[int] = []
        if not args.json:
            print(*text, end="", flush=True)
        with engine.generate(prompt, sampling, state=state_of(args, model)) as events:
            for event in events:
                if event.error is not None:
                    raise RuntimeError(event.error)
                text.append(event.text)
                ids += event.token_ids
                if not args.json:
                    print(event.text, end="", flush=True)
        if not args.json:
            print()
            if sys.stderr.isatty():
                told = speed(event.completion_tokens, time.monotonic() - begun)
                print(f"[{told}]", file=sys.stderr)
            return 0
        answer = {
            "text": "".join(text),
            "token_ids": ids,
            "finish_reason": event.finish_reason,
            "prompt_tokens": event.prompt_tokens,
            "completion_tokens": event.completion_tokens,
            "seconds": round(time.monotonic() - begun, 3),
        }
        print(json.dumps(answer, ensure_ascii=False))
    return 0
