"""Which vector finds the same question in other words: python tools/measure_embeddings.py [MODEL]

Prints, for the demo model, how often each kind of vector finds its partner first (recall@1, and the
mean of 1 / rank) among 518 texts, and how much shorter vectors lose. The table of
docs/embeddings.md is made of this; tests/unit/test_embed.py holds the chosen kind to bounds.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import demo_corpus
import numpy as np

import rwkv_native as rn
from rwkv_native import checkpoint
from rwkv_native.formats import safetensors

PER_KIND = 40
Array = np.ndarray


class Task:
    """Facts of the demo model's corpus: a question, the same one in other words, and its answer
    among those of all facts; and texts of six answers each, with a question about one of them."""

    def __init__(self, per_kind: int = PER_KIND, seed: int = 1) -> None:
        wordings: dict[tuple[str, str], list[demo_corpus.Item]] = {}
        for item in demo_corpus.all_items():
            wordings.setdefault((item.kind, item.fact), []).append(item)
        kinds: dict[str, list[list[demo_corpus.Item]]] = {}
        for (kind, _), items in wordings.items():
            kinds.setdefault(kind, []).append(items)
        rng = random.Random(seed)
        chosen = [
            items
            for facts in kinds.values()
            for items in rng.sample(facts, min(per_kind, len(facts)))
        ]
        pairs = [rng.sample(list(dict.fromkeys(i.question for i in items)), 2) for items in chosen]
        self.questions = [first for first, _ in pairs]
        self.others = [second for _, second in pairs]
        self.answers = [items[0].answer for items in chosen]
        rng.shuffle(chosen)
        self.long = [
            " ".join(items[0].answer for items in chosen[at : at + 6])
            for at in range(0, len(chosen) - 5, 6)
        ]
        self.about = [rng.choice(items).question for items in chosen[: 6 * len(self.long)]]

    def scores(self, vectors_of: Callable[[list[str]], Array]) -> list[tuple[float, float]]:
        """(recall@1, mean of 1 / rank) of rewording, answer and passage."""
        questions = unit(vectors_of(self.questions))
        gold = np.arange(len(questions))
        return [
            score(questions, unit(vectors_of(self.others)), gold),
            score(questions, unit(vectors_of(self.answers)), gold),
            score(
                unit(vectors_of(self.about)),
                unit(vectors_of(self.long)),
                np.repeat(np.arange(len(self.long)), 6),
            ),
        ]


def score(queries: Array, documents: Array, gold: Array) -> tuple[float, float]:
    cosines = queries @ documents.T
    mine = cosines[np.arange(len(gold)), gold][:, None]
    # Ties count half.
    ranks = (cosines > mine).sum(1) + ((cosines == mine).sum(1) - 1) / 2
    return float((ranks < 0.5).mean()), float((1 / (ranks + 1)).mean())


def unit(vectors: Array) -> Array:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def with_hidden_states(path: Path, layers: int, out: Path) -> rn.Model:
    """A model of the first layers, whose first logits are the normalised hidden state."""
    arrays = {name: t.to_numpy() for name, t in checkpoint.read(path).tensors.items()}
    whole = layers == 1 + max(int(n.split(".")[1]) for n in arrays if n.startswith("blocks."))
    kept = {
        name: array.astype(np.float32)
        for name, array in arrays.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < layers
    }
    rows, width = kept["head.weight"].shape
    kept["head.weight"] = np.eye(rows, width, dtype=np.float32)
    if not whole:  # the last norm belongs to another layer
        kept["ln_out.weight"], kept["ln_out.bias"] = np.ones(width, "f4"), np.zeros(width, "f4")
    with out.open("wb") as file:
        file.write(safetensors.header([(n, "F32", a.shape) for n, a in kept.items()], {}))
        for array in kept.values():
            file.write(array.tobytes())
    return rn.Model.open(out, "cpu fp32")


class Readings:
    """What the model holds of each text, computed once."""

    def __init__(self, path: Path, layers: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            self._model = with_hidden_states(path, layers, file)
        self._width = self._model.info.width
        self._tokenizer = rn.Tokenizer.world_bytes()
        self._known: dict[str, tuple[Array, Array]] = {}

    def _read(self, text: str) -> tuple[Array, Array]:
        if text not in self._known:
            rows, state = self._model.forward(self._tokenizer.encode(text), full=True)
            self._known[text] = rows[:, : self._width], state.to_numpy()["wkv"]
        return self._known[text]

    def mean(self, texts: list[str]) -> Array:
        return np.stack([self._read(text)[0].mean(0) for text in texts])

    def later(self, texts: list[str]) -> Array:
        """Means whose weights grow with the position."""
        rows = [self._read(text)[0] for text in texts]
        return np.stack([np.arange(1, len(r) + 1) @ r / (len(r) * (len(r) + 1) / 2) for r in rows])

    def last(self, texts: list[str]) -> Array:
        return np.stack([self._read(text)[0][-1] for text in texts])

    def memory(self, *layers: int, heads: bool = False) -> Callable[[list[str]], Array]:
        """S of these layers, [value][key] per head; each layer or head of length 1."""

        def read(text: str) -> Array:
            parts = [s if heads else s.reshape(1, -1) for s in self._read(text)[1][list(layers)]]
            return np.concatenate([unit(s.reshape(len(s), -1)).reshape(-1) for s in parts])

        return lambda texts: np.stack([read(text) for text in texts])


def trigrams(texts: list[str]) -> Array:
    """No model at all: which three bytes occur how often, hashed to 4096 numbers."""
    out = np.zeros((len(texts), 4096))
    for row, text in zip(out, texts, strict=True):
        raw = f" {text.lower()} ".encode()
        for i in range(len(raw) - 2):
            row[int.from_bytes(raw[i : i + 3], "little") * 2654435761 % 2**32 >> 20] += 1
    return out


def gaussian(vectors: Array, dimensions: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return vectors @ rng.standard_normal((vectors.shape[1], dimensions), np.float32)


def kinds(path: Path, layers: int) -> Iterator[tuple[str, Callable[[list[str]], Array]]]:
    whole, first = Readings(path, layers), Readings(path, 1)
    yield "trigrams of bytes, no model", trigrams
    yield "hidden states, mean", whole.mean
    yield "hidden states, mean, later ones weigh more", whole.later
    yield "hidden states, last", whole.last
    yield "hidden states after layer 0, mean", first.mean
    for layer in range(layers):
        yield f"memory of layer {layer}", whole.memory(layer)
    yield "memory of all layers", whole.memory(*range(layers))
    chosen = whole.memory((layers - 1) // 2, heads=True)
    yield f"memory of layer {(layers - 1) // 2}, heads of length 1", chosen
    for size in (128, 512):
        yield (
            f"  the same, {size} by a random matrix",
            lambda texts, size=size: gaussian(chosen(texts), size, 0),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=rn.demo_model())
    path = parser.parse_args().model
    task = Task()
    print(f"{len(task.questions)} facts, {len(task.long)} passages")
    model = rn.Model.open(path)

    def show(name: str, vectors_of: Callable[[list[str]], Array]) -> None:
        found = " | ".join(f"{first:.3f} {mean:.3f}" for first, mean in task.scores(vectors_of))
        print(f"{name:<48} {found}", flush=True)

    for name, vectors_of in kinds(path, model.info.layers):
        show(name, vectors_of)
    with rn.Engine(model, rn.Tokenizer.for_model(model)) as engine:
        for size in (64, 128, 256, 512, 1024, 1536, 4096):
            show(f"Engine.embed, {size}", lambda texts, size=size: engine.embed(texts, size))
        for size in (64, 128, 256, 512):
            show(
                f"Engine.embed, 1536 cut to {size}",
                lambda texts, size=size: engine.embed(texts, 1536)[:, :size],
            )
        show("Engine.embed, 512, fast", lambda texts: engine.embed(texts, 512, fast=True))


if __name__ == "__main__":
    main()
