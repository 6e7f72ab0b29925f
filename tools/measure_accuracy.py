"""What each weight format costs: python tools/measure_accuracy.py [MODEL] [--strategy S ...]

Prints, for the demo model or another byte-level one, the nats per byte on the held-out dialogues of
evaluation.json, the greedy answers that are right, and how much of the large matrices is in int4.
The README's table is made of this; tests/golden/test_quantised.py holds the figures to bounds.
"""

from __future__ import annotations

import argparse
import json
import select
from pathlib import Path

import numpy as np

import rwkv_native as rn

STRATEGIES = ("cpu fp32", "cpu fp16", "cpu bf16", "cpu bf16i8", "cpu bf16i4")
DEMO = Path(rn.demo_model())


def dialogues() -> list[tuple[str, str]]:
    """(prompt, answer) as the model is spoken to."""
    cases = json.loads((DEMO.parent / "evaluation.json").read_text())
    return [(f"User: {c['prompt']}\n\nAssistant:", f" {c['answer']}\n\n") for c in cases]


def nats_per_byte(model: rn.Model, tokenizer: rn.Tokenizer) -> tuple[float, float]:
    """(of whole dialogues, of the answers alone)"""
    losses, answers = [], []
    for prompt, answer in dialogues():
        ids = [0, *tokenizer.encode(prompt + answer)]
        logits = model.forward(ids[:-1], full=True)[0].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(ids) - 1), ids[1:]]
        loss = np.log(np.exp(logits).sum(axis=1)) - chosen
        losses.append(loss)
        answers.append(loss[-len(answer.encode()) :])
    return float(np.concatenate(losses).mean()), float(np.concatenate(answers).mean())


def right(model: rn.Model, tokenizer: rn.Tokenizer) -> int:
    """Questions answered to the letter, greedily."""
    engine = rn.Engine(model, tokenizer)
    sampling = rn.Sampling(temperature=0, max_tokens=120, stop=["\n\n"])
    asked = dialogues()
    ids = [engine.submit(prompt, sampling) for prompt, _ in asked]
    texts = dict.fromkeys(ids, "")
    left = set(ids)
    while left:
        select.select([engine.fileno()], [], [])
        for event in engine.poll():
            texts[event.id] += event.text
            if event.finish_reason is not None:
                left.discard(event.id)
    return sum(texts[i].strip() == a.strip() for i, (_, a) in zip(ids, asked, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=str(DEMO))
    parser.add_argument("--strategy", nargs="*", default=STRATEGIES)
    args = parser.parse_args()
    for strategy in args.strategy:
        model = rn.Model.open(args.model, strategy)
        tokenizer = rn.Tokenizer.for_model(model)
        whole, answers = nats_per_byte(model, tokenizer)
        info = model.info
        kept = info.int8_weights + info.int4_weights
        share = info.int4_weights / kept if kept else 0
        print(
            f"{strategy:<12} {whole:.5f} nats/byte, answers {answers:.5f},"
            f" {right(model, tokenizer)} of {len(dialogues())} right,"
            f" {info.token_bytes:,} bytes a token, {share:.0%} of the quantised weights in int4"
        )


if __name__ == "__main__":
    main()
