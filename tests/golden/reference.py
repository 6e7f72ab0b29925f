"""RWKV-7 in float64 numpy, one token at a time: the equations of arch/v7.cpp, to be read.

The oracle of the golden tests, and independent of the engine: it shares only the checkpoint reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwkv_native import checkpoint


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def layer_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5
) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


@dataclass
class State:
    att_x: np.ndarray  # [L, D], the last LN1 output
    ffn_x: np.ndarray  # [L, D], the last LN2 output
    wkv: np.ndarray  # [L, H, N, N], [value][key]


class Rwkv7:
    """A checkpoint, and its forward for one token."""

    def __init__(self, path: str | Path) -> None:
        tensors = checkpoint.read(path).tensors
        self.w = {n: np.squeeze(t.to_numpy().astype(np.float64)) for n, t in tensors.items()}
        # squeeze() must not take a head away where there is only one.
        self.w.update(
            {n: t.to_numpy().astype(np.float64) for n, t in tensors.items() if n.endswith("r_k")}
        )
        self.layers = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
        self.heads, self.head_size = self.w["blocks.0.att.r_k"].shape
        self.width = self.heads * self.head_size

    def zero_state(self) -> State:
        ln, d, h, n = self.layers, self.width, self.heads, self.head_size
        return State(np.zeros((ln, d)), np.zeros((ln, d)), np.zeros((ln, h, n, n)))

    def forward(self, token: int, state: State) -> np.ndarray:
        """Logits [V] after `token`; moves `state` on."""
        w = self.w
        x = layer_norm(w["emb.weight"][token], w["blocks.0.ln0.weight"], w["blocks.0.ln0.bias"])
        v_first = np.zeros(self.width)
        for i in range(self.layers):
            b = f"blocks.{i}."
            xn = layer_norm(x, w[b + "ln1.weight"], w[b + "ln1.bias"])
            y, v_first = self.time_mix(i, xn, state, v_first)
            x = x + y
            xn = layer_norm(x, w[b + "ln2.weight"], w[b + "ln2.bias"])
            x = x + self.channel_mix(i, xn, state)
        return w["head.weight"] @ layer_norm(x, w["ln_out.weight"], w["ln_out.bias"])

    def time_mix(
        self, i: int, x: np.ndarray, state: State, v_first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        h, n = self.heads, self.head_size
        p = {
            k.removeprefix(f"blocks.{i}.att."): t
            for k, t in self.w.items()
            if k.startswith(f"blocks.{i}.att.")
        }
        delta = state.att_x[i] - x
        state.att_x[i] = x
        x_r, x_w, x_k, x_v, x_a, x_g = (x + delta * p[f"x_{j}"] for j in "rwkvag")

        r = p["receptance.weight"] @ x_r
        k = p["key.weight"] @ x_k
        v = p["value.weight"] @ x_v
        w = np.exp(-np.exp(-0.5) * sigmoid(p["w0"] + np.tanh(x_w @ p["w1"]) @ p["w2"]))
        a = sigmoid(p["a0"] + x_a @ p["a1"] @ p["a2"])
        g = sigmoid(x_g @ p["g1"]) @ p["g2"]
        kk = (k * p["k_k"]).reshape(h, n)
        kk = kk / np.maximum(np.linalg.norm(kk, axis=1, keepdims=True), 1e-12)
        k = k * (1 + (a - 1) * p["k_a"])
        if i == 0:
            v_first = v
        else:
            v = v + (v_first - v) * sigmoid(p["v0"] + x_v @ p["v1"] @ p["v2"])

        r, w, k, v, a = (t.reshape(h, n) for t in (r, w, k, v, a))
        s = state.wkv[i]
        removed = np.einsum("hij,hj->hi", s, kk)
        s = s * w[:, None, :] - removed[:, :, None] * (kk * a)[:, None, :]
        s = s + v[:, :, None] * k[:, None, :]
        state.wkv[i] = s
        y = np.einsum("hij,hj->hi", s, r)

        y = layer_norm(y, p["ln_x.weight"].reshape(h, n), p["ln_x.bias"].reshape(h, n), eps=64e-5)
        y = y + (r * k * p["r_k"]).sum(1, keepdims=True) * v
        return p["output.weight"] @ (y.reshape(-1) * g), v_first

    def channel_mix(self, i: int, x: np.ndarray, state: State) -> np.ndarray:
        b = f"blocks.{i}.ffn."
        delta = state.ffn_x[i] - x
        state.ffn_x[i] = x
        k = self.w[b + "key.weight"] @ (x + delta * self.w[b + "x_k"])
        return self.w[b + "value.weight"] @ np.maximum(k, 0) ** 2
