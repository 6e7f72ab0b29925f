"""What each format of weights and states costs: python tools/measure_accuracy.py [MODEL]
[--strategy S ...] [--state-type T ...]

Prints, for the demo model or another byte-level one, the nats per byte on the held-out dialogues of
evaluation.json, each alone and all as one long text, the greedy answers that are right, and how
much of the large matrices is in int4. The tables of docs/quantisation.md are made of this;
tests/golden/test_quantised.py holds the figures to bounds.
"""

from __future__ import annotations

import argparse
import itertools
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


def loss_of(logits: np.ndarray, wanted: np.ndarray | list[int]) -> np.ndarray:
    """-log p of each wanted id, in nats."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(wanted)), wanted]


def nats_per_byte(model: rn.Model, tokenizer: rn.Tokenizer) -> tuple[float, float]:
    """(of whole dialogues, of the answers alone)"""
    losses, answers = [], []
    for prompt, answer in dialogues():
        ids = [0, *tokenizer.encode(prompt + answer)]
        loss = loss_of(model.forward(ids[:-1], full=True)[0], ids[1:])
        losses.append(loss)
        answers.append(loss[-len(answer.encode()) :])
    return float(np.concatenate(losses).mean()), float(np.concatenate(answers).mean())


def of_one_text(model: rn.Model, tokenizer: rn.Tokenizer) -> float:
    """Nats per byte of all dialogues one after another: 31 kB through one state."""
    text = "".join(prompt + answer for prompt, answer in dialogues())
    ids = np.array([0, *tokenizer.encode(text)])
    losses, state = [], None
    for at in range(0, len(ids) - 1, 1024):
        wanted = ids[at + 1 : at + 1025]
        logits, state = model.forward(ids[at : at + len(wanted)], state, full=True)
        losses.append(loss_of(logits, wanted))
    return float(np.concatenate(losses).mean())


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
    parser.add_argument("--state-type", nargs="*", default=["fp32"])
    args = parser.parse_args()
    for strategy, state_type in itertools.product(args.strategy, args.state_type):
        model = rn.Model.open(args.model, strategy, state_type=state_type)
        tokenizer = rn.Tokenizer.for_model(model)
        whole, answers = nats_per_byte(model, tokenizer)
        info = model.info
        kept = info.int8_weights + info.int4_weights
        share = info.int4_weights / kept if kept else 0
        print(
            f"{strategy:<12} states {info.state_type}: {whole:.5f} nats/byte,"
            f" answers {answers:.5f}, one text {of_one_text(model, tokenizer):.5f},"
            f" {right(model, tokenizer)} of {len(dialogues())} right,"
            f" {info.token_bytes:,} bytes a token, {share:.0%} of the quantised weights in int4"
        )


if __name__ == "__main__":
    main()
