"""Trains the embedded demo model: pip install torch==2.13.0 numpy

A byte-level RWKV-7 (ids 0..256 of the World vocabulary) trained on tools/demo_corpus.py with one
core. Writes the model, its held-out questions and its card into rwkv_native/demo. Run by hand; the
package and its tests never import it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import demo_corpus
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB = 257
HEAD = 64
CHUNK = 64
END = 0
USER_WEIGHT = 0.1  # weight of bytes that are not an answer: they are mostly random
SEPARATOR_WEIGHT = 4.0  # of "," and "." in counting: where to stop is what is hard about it
COUNTED = re.compile(rb" \d+(, \d+)+\.\n\n")
RESET = 0.25  # chance per window that a row starts a new document with an empty state
METADATA = {
    "rwkv.tokenizer": "world-bytes",
    "rwkv.family": "world",
    "rwkv.version": "7",
    "rwkv.license": "Apache-2.0",
    "format": "pt",
}
DEMO = Path(__file__).resolve().parents[1] / "rwkv_native" / "demo"

CARD = """# The embedded demo model

A byte-level RWKV-7 (x070) with {facts.parameters} parameters, trained from scratch on text made by
`tools/demo_corpus.py`: short dialogues in the World chat format (`User: ...`, `Assistant: ...`).
It exists so that the first run works without a download, and so that a mistake in a kernel or a
quantisation shows as a wrong answer in a test. License: Apache-2.0 (weights and text are our own).

| | |
|---|---|
| shape | {options.layers} layers, width {options.width}, {heads} heads of 64, hidden {hidden}, \
257 tokens |
| tokens | 0 ends a document, byte + 1 otherwise: ids 0..256 of the World vocabulary |
| ranks | w 16, a 16, v 16, g 32 |
| file | `demo.safetensors`, bfloat16, official tensor names |
| seed | {options.seed} |
| documents | {options.documents} |
| text | {facts.corpus} tokens with the ends of documents, in the last stage |
{first}| {stage_name} | {facts.steps} steps of {options.batch} x {options.length} = {facts.tokens} \
tokens, {minutes:.0f} minutes, {speed:.0f} tokens/s; rate {options.rate} to {options.last_rate} \
(cosine) |
| machine | one thread of a two-core x86-64 machine that also did other work |
| optimiser | AdamW (0.9, 0.99), gradient clip 1.0, weight decay 0.1 on matrices |
| torch | {torch}, float32, one thread |

Rows read on through the text with their state, or start a new document with an empty state (one
window in four). The loss counts the bytes of an answer fully and all others {user_weight} times;
the separators of counting {separator_weight} times.
The stages differ in the ranges of numbers and the shares of the kinds (`STAGES` in the corpus).

{command}

## Accuracy

Greedy, weights as shipped, on the {asked} questions of `evaluation.json`; the whole answer must be
equal. None of these questions is in the training text, nor one that differs only in case or
punctuation (`tests/unit/test_demo_corpus.py` proves it).

A kind without "(unseen)" asks for a fact that other wordings in the training text also ask for: it
tests wording, not knowledge. For a kind marked "(unseen)" the training text asks in no wording for
the same sum (in either order of the summands), range, neighbour, comparison or spelling: here the
answer must be worked out. The ranges of the last stage were narrowed after counting and comparing
had scored badly in the stages before.

| kind | right | asked | |
|---|---|---|---|
{kinds}
| **all** | **{right}** | **{asked}** | **{share:.1f} %** |

## Loss

Nats per byte of the answers in the last stage, running mean over about 50 steps.

| step | seconds | loss |
|---|---|---|
{curve}

## Limits

It knows the kinds above, some small talk and a name told earlier in the dialogue; numbers in sums
up to 20, products up to 10 x 10, counting up to 10, comparing up to 20. To most other questions it
says that it does not know, and to some it gives a wrong answer with confidence: facts, numbers and
words outside its tables are not to be trusted. It reads simple English only and ignores system
texts. Temperature 0 (greedy) is best for questions; for chat, temperature 1 with top_p 0.3.
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a training run did; `curve` holds (step, seconds, loss of the answers)."""

    parameters: int
    steps: int
    seconds: float
    tokens: int
    corpus: int
    curve: list[tuple[int, float, float]]


# Per layer: previous input of the time mix [B,D] and of the channel mix [B,D], S [B,H,N,N]
# oriented [value][key].
LayerState = tuple[Tensor, Tensor, Tensor]


def wkv_steps(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, alpha: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S <- S diag(w) + (S alpha) b^T + v k^T, y = S r, token by token; inputs [B,H,T,N]."""
    outputs = []
    for t in range(r.shape[2]):
        removed = state @ alpha[:, :, t, :, None]
        state = (
            state * torch.exp(log_w[:, :, t, None, :])
            + removed * b[:, :, t, None, :]
            + v[:, :, t, :, None] * k[:, :, t, None, :]
        )
        outputs.append((state @ r[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, 2), state


def wkv_chunks(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, alpha: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same as wkv_steps in the chunked WY form; T must be a multiple of CHUNK.

    log w >= -0.607 per token, so 1/W stays below 1e17 within a chunk and float32 holds it.
    """
    batch, heads, length, width = r.shape
    r, log_w, k, v, alpha, b = (
        x.reshape(batch, heads, length // CHUNK, CHUNK, width) for x in (r, log_w, k, v, alpha, b)
    )
    cumulative = log_w.cumsum(-2)
    inverse = torch.exp(-cumulative)
    last = torch.exp(cumulative[..., -1:, :])  # [B,H,n,1,N]
    alpha = alpha * torch.exp(cumulative - log_w)
    r = r * torch.exp(cumulative)
    k, b = k * inverse, b * inverse
    a_ab = (alpha @ b.mT).tril(-1)
    a_ak = (alpha @ k.mT).tril(-1)
    a_rb = (r @ b.mT).tril()
    a_rk = (r @ k.mT).tril()
    eye = torch.eye(CHUNK, dtype=r.dtype)
    solved = torch.linalg.solve_triangular(
        eye - a_ab, torch.cat([a_ak @ v, alpha], -1), upper=False, unitriangular=True
    )
    u_v, u_state = solved.split(width, -1)
    k, b = k * last, b * last
    move = torch.diag_embed(last[..., 0, :]) + u_state.mT @ b  # [B,H,n,N,N], key x key
    gain = v.mT @ k + u_v.mT @ b
    starts = []
    for chunk in range(r.shape[2]):
        starts.append(state)
        state = state @ move[:, :, chunk] + gain[:, :, chunk]
    start = torch.stack(starts, 2).mT
    u = u_v + u_state @ start
    y = r @ start + a_rk @ v + a_rb @ u
    return y.reshape(batch, heads, length, width), state


def shifted(x: Tensor, before: Tensor) -> Tensor:
    """x one token earlier; `before` [B,D] is the input of the last token before x [B,T,D]."""
    return torch.cat([before[:, None], x[:, :-1]], 1)


def orthogonal(rows: int, columns: int, gain: float) -> nn.Parameter:
    return nn.Parameter(nn.init.orthogonal_(torch.empty(rows, columns), gain))


def linear(out: int, into: int, bound: float) -> nn.Linear:
    layer = nn.Linear(into, out, bias=False)
    nn.init.uniform_(layer.weight, -bound, bound)
    return layer


class TimeMix(nn.Module):
    def __init__(self, layer: int, layers: int, width: int, ranks: dict[str, int]) -> None:
        super().__init__()
        self.layer, self.heads = layer, width // HEAD
        depth, left = layer / (layers - 1), 1 - layer / layers
        c = torch.arange(width)
        lin = c / (width - 1) - 0.5
        zigzag = (c % HEAD) / (HEAD - 1) * 2 - 1
        zigzag = zigzag * zigzag.abs()
        for name, exponent in zip("rwkvag", (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):
            mix = 1 - (c / width) ** (exponent * left)
            setattr(self, f"x_{name}", nn.Parameter(mix.view(1, 1, width)))
        bias = {
            "w": -5.5 + 6 * (c / (width - 1)) ** (1 + depth**0.3) + 2.5 * zigzag,
            "a": -0.19 + 0.3 * zigzag + 0.4 * lin,
            "v": 0.73 - 0.4 * lin,
        }
        for name, value in bias.items():
            setattr(self, f"{name}0", nn.Parameter(value.view(1, 1, width)))
        for name in "wavg":
            setattr(self, f"{name}1", nn.Parameter(torch.zeros(width, ranks[name])))
            setattr(self, f"{name}2", orthogonal(ranks[name], width, 0.1))
        self.k_k = nn.Parameter((0.71 - 0.1 * lin).view(1, 1, width))
        self.k_a = nn.Parameter(torch.full((1, 1, width), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, HEAD), -0.04))
        self.receptance = linear(width, width, 0.5 / math.sqrt(width))
        self.key = linear(width, width, 0.05 / math.sqrt(width))
        self.value = linear(width, width, 0.5 / math.sqrt(width))
        self.output = linear(width, width, 0.0)
        self.ln_x = nn.GroupNorm(self.heads, width, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / layers) ** 0.7)

    def forward(
        self, x: Tensor, before: Tensor, state: Tensor, v_first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = x.shape
        delta = shifted(x, before) - x
        x_r, x_w, x_k, x_v, x_a, x_g = (x + delta * getattr(self, f"x_{n}") for n in "rwkvag")
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        log_w = -math.exp(-0.5) * torch.sigmoid(self.w0 + torch.tanh(x_w @ self.w1) @ self.w2)
        a = torch.sigmoid(self.a0 + x_a @ self.a1 @ self.a2)
        g = torch.sigmoid(x_g @ self.g1) @ self.g2
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + x_v @ self.v1 @ self.v2)

        def heads(t: Tensor) -> Tensor:
            return t.view(batch, length, self.heads, HEAD).transpose(1, 2)

        kappa = F.normalize(heads(k * self.k_k), dim=-1, eps=1e-12)
        k = k * (1 + (a - 1) * self.k_a)
        r_h, k_h, v_h = heads(r), heads(k), heads(v)
        wkv = wkv_chunks if length % CHUNK == 0 else wkv_steps
        y, state = wkv(r_h, heads(log_w), k_h, v_h, -kappa, kappa * heads(a), state)
        y = self.ln_x(y.transpose(1, 2).reshape(-1, width)).view(batch, length, width)
        bonus = (r_h * k_h * self.r_k[:, None]).sum(-1, keepdim=True) * v_h
        y = y + bonus.transpose(1, 2).reshape(batch, length, width)
        return self.output(y * g), state, v_first


class ChannelMix(nn.Module):
    def __init__(self, layer: int, layers: int, width: int) -> None:
        super().__init__()
        left = 1 - layer / layers
        mix = 1 - (torch.arange(width) / width) ** (left**4)
        self.x_k = nn.Parameter(mix.view(1, 1, width))
        self.key = nn.Linear(width, 4 * width, bias=False)
        nn.init.orthogonal_(self.key.weight, 2.0)
        self.value = linear(width, 4 * width, 0.0)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.value(F.relu(self.key(x + (shifted(x, before) - x) * self.x_k)) ** 2)


class Block(nn.Module):
    def __init__(self, layer: int, layers: int, width: int, ranks: dict[str, int]) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(width)
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.att = TimeMix(layer, layers, width, ranks)
        self.ffn = ChannelMix(layer, layers, width)


class Model(nn.Module):
    """RWKV-7 with the official tensor names, so that state_dict() is the checkpoint."""

    def __init__(self, layers: int, width: int, ranks: dict[str, int]) -> None:
        super().__init__()
        self.emb = nn.Embedding(VOCAB, width)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self.blocks = nn.ModuleList(Block(i, layers, width, ranks) for i in range(layers))
        self.ln_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        nn.init.orthogonal_(self.head.weight, 0.5 * max(1.0, math.sqrt(VOCAB / width)))

    def empty_state(self, batch: int) -> list[LayerState]:
        width = self.emb.weight.shape[1]
        return [
            (
                torch.zeros(batch, width),
                torch.zeros(batch, width),
                torch.zeros(batch, width // HEAD, HEAD, HEAD),
            )
            for _ in self.blocks
        ]

    def forward(self, ids: Tensor, states: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
        """Logits [B,T,V] and the state after the last token; ids [B,T]."""
        x = self.blocks[0].ln0(self.emb(ids))
        v_first = None
        after = []
        for block, (att_x, ffn_x, s) in zip(self.blocks, states, strict=True):
            normed = block.ln1(x)
            mixed, s, v_first = block.att(normed, att_x, s, v_first)
            x = x + mixed
            normed_2 = block.ln2(x)
            x = x + block.ffn(normed_2, ffn_x)
            after.append((normed[:, -1], normed_2[:, -1], s))
        return self.head(self.ln_out(x)), after


class Stream:
    """Windows over the corpus: each row reads on with its state, or starts a new document."""

    def __init__(self, documents: list[str], batch: int, length: int, seed: int) -> None:
        ids: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        starts, position = [], 0
        for document in documents:
            text = document.encode()
            row = np.zeros(len(text) + 1, np.int64)
            row[1:] = np.frombuffer(text, np.uint8).astype(np.int64) + 1
            weight = np.full(len(text) + 1, USER_WEIGHT, np.float32)
            for match in re.finditer(rb"Assistant:(.*?\n\n)", text):
                weight[match.start(1) + 1 : match.end(1) + 1] = 1.0
                if COUNTED.fullmatch(match[1]):
                    for separator in re.finditer(rb"[,.]", match[1]):
                        weight[match.start(1) + separator.start() + 1] = SEPARATOR_WEIGHT
            ids.append(row)
            weights.append(weight)
            starts.append(position)
            position += len(row)
        self.ids = torch.from_numpy(np.concatenate(ids))
        self.weights = torch.from_numpy(np.concatenate(weights))
        self.starts, self.length = starts, length
        self.rng = random.Random(seed + 2)
        self.at = [self.new_start() for _ in range(batch)]

    def new_start(self) -> int:
        """A document's beginning, with the token 0 before it or without."""
        return self.rng.choice(self.starts[:-64]) + self.rng.randint(0, 1)

    def next(self) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """ids [B,T], targets [B,T], weights [B,T] and the rows that start with no state."""
        fresh = []
        for row, at in enumerate(self.at):
            if self.rng.random() < RESET or at + self.length + 1 > len(self.ids):
                self.at[row] = self.new_start()
                fresh.append(row)
        windows = torch.stack([self.ids[at : at + self.length + 1] for at in self.at])
        weights = torch.stack([self.weights[at + 1 : at + self.length + 1] for at in self.at])
        self.at = [at + self.length for at in self.at]
        return windows[:, :-1], windows[:, 1:], weights, fresh


def optimiser(model: Model) -> torch.optim.Optimizer:
    decayed, plain, decay_bias = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith("att.w0"):
            decay_bias.append(parameter)
        elif name.endswith(".weight") and parameter.ndim >= 2:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.1, "scale": 1.0},
            {"params": plain, "weight_decay": 0.0, "scale": 1.0},
            {"params": decay_bias, "weight_decay": 0.0, "scale": 2.0},
        ],
        betas=(0.9, 0.99),
        eps=1e-18,
    )


def rounded(model: Model) -> dict[str, Tensor]:
    return {name: t.detach().to(torch.bfloat16) for name, t in model.state_dict().items()}


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write bfloat16 tensors as .safetensors: length, JSON header, data."""
    header: dict[str, object] = {"__metadata__": METADATA}
    data = bytearray()
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.int16).numpy().astype("<i2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    partial.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    partial.replace(path)


def load(path: Path) -> Model:
    """Read a model that `save` wrote."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    del header["__metadata__"]
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        values = np.frombuffer(raw[begin:end], "<i2").copy()
        tensors[name] = torch.from_numpy(values).view(torch.bfloat16).view(entry["shape"])
    ranks = {n: tensors[f"blocks.0.att.{n}1"].shape[1] for n in "wavg"}
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    model = Model(layers, tensors["emb.weight"].shape[1], ranks)
    model.load_state_dict({name: t.float() for name, t in tensors.items()})
    return model


@torch.no_grad()
def answers(model: Model, prompts: list[str], longest: int = 140) -> list[str]:
    """Greedy answers up to the first blank line, all prompts in one batch."""
    rows = [[byte + 1 for byte in prompt.encode()] for prompt in prompts]
    texts: list[bytearray] = [bytearray() for _ in rows]
    states = model.empty_state(len(rows))
    ids = torch.tensor([row[0] for row in rows])
    for step in range(1, max(map(len, rows)) + longest):
        logits, states = model(ids[:, None], states)
        best = logits[:, 0].argmax(-1).tolist()
        following = []
        for row, text, token in zip(rows, texts, best, strict=True):
            if step < len(row):
                following.append(row[step])
                continue
            text.append(token - 1 if token else 10)
            following.append(token)
        if all(b"\n\n" in text for text in texts):
            break
        ids = torch.tensor(following)
    return [bytes(text).split(b"\n\n")[0].decode(errors="replace").strip() for text in texts]


def evaluate(
    model: Model, questions: list[dict[str, str]], show: int = 0
) -> dict[str, tuple[int, int]]:
    """Right and asked per kind, greedy, with the weights rounded to bfloat16."""
    copy = Model(
        len(model.blocks),
        model.emb.weight.shape[1],
        {n: getattr(model.blocks[0].att, f"{n}1").shape[1] for n in "wavg"},
    )
    copy.load_state_dict({name: t.float() for name, t in rounded(model).items()})
    given = answers(copy, [f"User: {q['prompt']}\n\nAssistant:" for q in questions])
    score: dict[str, tuple[int, int]] = {}
    for question, answer in zip(questions, given, strict=True):
        right, asked = score.get(question["kind"], (0, 0))
        correct = answer == question["answer"]
        score[question["kind"]] = (right + correct, asked + 1)
        if not correct and show > 0:
            show -= 1
            print(f"  {question['kind']}: {question['prompt']} -> {answer}", flush=True)
    return score


def total(score: dict[str, tuple[int, int]]) -> float:
    return sum(r for r, _ in score.values()) / sum(n for _, n in score.values())


def check_recurrence() -> float:
    """Largest difference between the chunked form and the loop, outputs and state, float64."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, 2, 2 * CHUNK, HEAD)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    kappa = F.normalize(normal(), dim=-1)
    state = torch.randn(2, 2, HEAD, HEAD, generator=generator, dtype=torch.float64)
    log_w = -math.exp(-0.5) * torch.sigmoid(normal())
    arguments = (normal(), log_w, normal(), normal(), -kappa, kappa * torch.sigmoid(normal()))
    pairs = zip(wkv_chunks(*arguments, state), wkv_steps(*arguments, state), strict=True)
    return max((fast - slow).abs().max().item() for fast, slow in pairs)


def train(options: argparse.Namespace) -> tuple[Model, Facts]:
    torch.manual_seed(options.seed)
    ranks = {"w": 16, "a": 16, "v": 16, "g": 32}
    model = Model(options.layers, options.width, ranks)
    if options.resume:
        model = load(options.resume)
    parameters = sum(p.numel() for p in model.parameters())
    stage = demo_corpus.STAGES[options.stage - 1]
    documents = demo_corpus.training_documents(options.seed, options.documents, stage)
    stream = Stream(documents, options.batch, options.length, options.seed)
    questions = demo_corpus.evaluation(options.seed)
    adam = optimiser(model)
    states = model.empty_state(options.batch)
    print(f"{parameters} parameters, {len(stream.ids)} tokens of text", flush=True)
    curve: list[tuple[int, float, float]] = []
    began = saved = time.monotonic()
    running, step = 0.0, 0
    while True:
        elapsed = time.monotonic() - began
        progress = max(step / options.steps, elapsed / options.seconds)
        if progress >= 1 or step == options.stop:
            break
        rate = options.last_rate + (options.rate - options.last_rate) * 0.5 * (
            1 + math.cos(math.pi * progress)
        )
        rate *= min(1.0, (step + 1) / 20)
        for group in adam.param_groups:
            group["lr"] = rate * group["scale"]
        ids, targets, weights, fresh = stream.next()
        keep = torch.ones(options.batch)
        keep[fresh] = 0
        states = [
            (
                a.detach() * keep[:, None],
                f.detach() * keep[:, None],
                s.detach() * keep[:, None, None, None],
            )
            for a, f, s in states
        ]
        logits, states = model(ids, states)
        losses = F.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1), reduction="none")
        loss = (losses * weights.view(-1)).sum() / weights.sum()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        step += 1
        answered = weights.view(-1) >= 1
        value = (losses.detach() * answered).sum().item() / max(1, int(answered.sum()))
        running = value if step == 1 else 0.98 * running + 0.02 * value
        if step in (1, 10, 25, 50) or step % 100 == 0:
            seconds = time.monotonic() - began
            curve.append((step, seconds, running))
            speed = step * options.batch * options.length / seconds
            print(
                f"{step} {seconds:.0f}s answers {running:.4f} lr {rate:.2e} {speed:.0f} tok/s",
                flush=True,
            )
        if time.monotonic() - saved > options.save_every:
            saved = time.monotonic()
            options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            save(options.checkpoint, rounded(model))
            score = evaluate(model, questions, show=8)
            print(
                f"  {total(score):.3f}", {k: f"{r}/{n}" for k, (r, n) in score.items()}, flush=True
            )
    seconds = time.monotonic() - began
    curve.append((step, seconds, running))
    facts = Facts(
        parameters=parameters,
        steps=step,
        seconds=seconds,
        tokens=step * options.batch * options.length,
        corpus=len(stream.ids),
        curve=curve,
    )
    return model, facts


def card(options: argparse.Namespace, facts: Facts, score: dict[str, tuple[int, int]]) -> str:
    """The model card: what it is, how it was made, what it gets right."""
    kinds = "\n".join(
        f"| {kind} | {right} | {asked} | {100 * right / asked:.1f} % |"
        for kind, (right, asked) in score.items()
    )
    points = [
        point
        for point in facts.curve
        if point[0] in (1, 10, 100, 500) or point[0] % 1000 == 0 or point is facts.curve[-1]
    ]
    curve = "\n".join(f"| {step} | {seconds:.0f} | {loss:.4f} |" for step, seconds, loss in points)
    right, asked = (sum(column) for column in zip(*score.values(), strict=True))
    command = (
        f"    python tools/train_demo.py --stage {options.stage} --batch {options.batch} "
        f"--length {options.length} --rate {options.rate} \\\n        --steps {facts.steps}"
    )
    if options.resume:
        command += " --resume FIRST"
    return CARD.format(
        options=options,
        facts=facts,
        kinds=kinds,
        curve=curve,
        right=right,
        asked=asked,
        share=100 * right / asked,
        minutes=facts.seconds / 60,
        heads=options.width // HEAD,
        hidden=4 * options.width,
        speed=facts.tokens / facts.seconds,
        stage_name="last stage" if options.resume else "trained",
        first=f"| before it | {options.first} |\n" if options.first else "",
        command=command,
        user_weight=USER_WEIGHT,
        separator_weight=SEPARATOR_WEIGHT,
        torch=torch.__version__.split("+")[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="stop and decay by this time")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=demo_corpus.SEED)
    parser.add_argument("--documents", type=int, default=demo_corpus.DOCUMENTS)
    parser.add_argument(
        "--stage", type=int, default=len(demo_corpus.STAGES), help="of demo_corpus.STAGES, from 1"
    )
    parser.add_argument("--stop", type=int, help="end after so many steps, whatever the schedule")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 64")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="window, a multiple of 64")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--last-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.safetensors"))
    parser.add_argument("--save-every", type=float, default=240, help="seconds")
    parser.add_argument("--resume", type=Path, help="start from these weights")
    parser.add_argument("--first", help="for the card: how the weights resumed from were made")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"chunked form against the loop: {check_recurrence():.1e}", flush=True)
    model, facts = train(options)
    options.out.mkdir(parents=True, exist_ok=True)
    save(options.out / "demo.safetensors", rounded(model))
    questions = demo_corpus.evaluation(options.seed)
    demo_corpus.write_evaluation(options.out / "evaluation.json", options.seed)
    score = evaluate(model, questions, show=100)
    (options.out / "MODEL_CARD.md").write_text(card(options, facts, score))
    print(f"{total(score):.4f}", score)


if __name__ == "__main__":
    main()
