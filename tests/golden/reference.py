"""Every version of RWKV in float64 numpy, one token at a time: the equations, to be read.

The oracle of the golden tests, and independent of the engine: it shares only the checkpoint reader.
One function per version and mixing; `p` holds the tensors of one layer by their official names
without "blocks.i.", `s` the state of that layer. Vectors are [D] or, seen as heads, [H, N];
matrices are [out, in] and used as W @ x, low-rank factors [in, rank], [rank, out] as x @ A @ B.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rwkv_native import checkpoint

Array = np.ndarray
Tensors = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def relu_squared(x: Array) -> Array:
    return np.maximum(x, 0) ** 2


def norm(x: Array, p: Tensors, name: str, eps: float = 1e-5) -> Array:
    """LayerNorm over the last axis; with x [H, N] a group norm with one group per head."""
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * p[name + ".weight"].reshape(x.shape) + p[name + ".bias"].reshape(x.shape)


def shift(s: Tensors, name: str, x: Array) -> Array:
    """prev − x, where prev is the x of the token before; keeps x for the next token."""
    delta, s[name] = s[name] - x, x
    return delta


# -- version 4


def time_mix_4(p: Tensors, s: Tensors, x: Array) -> Array:
    delta = shift(s, "att_x", x)
    x_k, x_v, x_r = (x + delta * (1 - p[f"att.time_mix_{j}"]) for j in "kvr")
    k = p["att.key.weight"] @ x_k
    v = p["att.value.weight"] @ x_v
    r = sigmoid(p["att.receptance.weight"] @ x_r)
    u, d = p["att.time_first"], -np.exp(p["att.time_decay"])

    aa, bb, pp = s["aa"], s["bb"], s["pp"]  # the sums carry the factor e^pp
    m = np.maximum(pp, u + k)
    e1, e2 = np.exp(pp - m), np.exp(u + k - m)
    wkv = (e1 * aa + e2 * v) / (e1 * bb + e2)
    m = np.maximum(pp + d, k)
    e1, e2 = np.exp(pp + d - m), np.exp(k - m)
    s["aa"], s["bb"], s["pp"] = e1 * aa + e2 * v, e1 * bb + e2, m
    return p["att.output.weight"] @ (r * wkv)


def channel_mix_4(p: Tensors, s: Tensors, x: Array) -> Array:
    delta = shift(s, "ffn_x", x)
    if "ffn.time_maa_k" in p:  # version 6: weights of the previous token
        m_k, m_r = p["ffn.time_maa_k"], p["ffn.time_maa_r"]
    else:
        m_k, m_r = 1 - p["ffn.time_mix_k"], 1 - p["ffn.time_mix_r"]
    k = relu_squared(p["ffn.key.weight"] @ (x + delta * m_k))
    return sigmoid(p["ffn.receptance.weight"] @ (x + delta * m_r)) * (p["ffn.value.weight"] @ k)


# -- versions 5.0, 5.1, 5.2, 6.0


def matrix_state(
    p: Tensors, s: Tensors, r: Array, k: Array, v: Array, w: Array, u: Array, g: Array
) -> Array:
    """y = rᵀ (U ⊙ k ⊗ v + S), S ← W ⊙ S + k ⊗ v with S [key][value]; then norm, gate, output."""
    heads, n, _ = s["wkv"].shape
    r, k, v = (t.reshape(heads, n) for t in (r, k, v))
    w, u = (np.broadcast_to(t.reshape(heads, -1), (heads, n))[:, :, None] for t in (w, u))
    kv = k[:, :, None] * v[:, None, :]
    y = np.einsum("hi,hij->hj", r, u * kv + s["wkv"])
    s["wkv"] = w * s["wkv"] + kv
    return p["att.output.weight"] @ (norm(y, p, "att.ln_x", 64e-5).reshape(-1) * g)


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def time_mix_5(p: Tensors, s: Tensors, x: Array) -> Array:
    delta = shift(s, "att_x", x)
    x_r, x_k, x_v = (x + delta * (1 - p[f"att.time_mix_{j}"]) for j in "rkv")
    r = p["att.receptance.weight"] @ x_r
    k = p["att.key.weight"] @ x_k
    v = p["att.value.weight"] @ x_v
    g = np.ones_like(v)
    if "att.gate.weight" in p:  # 5.1 and 5.2
        g = silu(p["att.gate.weight"] @ (x + delta * (1 - p["att.time_mix_g"])))
    # One number per head, or in 5.2 one per key channel.
    w = np.exp(-np.exp(p["att.time_decay"]))
    u = p["att.time_faaaa"] if "att.time_faaaa" in p else np.exp(p["att.time_first"])
    return matrix_state(p, s, r, k, v, w, u, g)


def time_mix_6(p: Tensors, s: Tensors, x: Array) -> Array:
    delta = shift(s, "att_x", x)
    z = np.tanh((x + delta * p["att.time_maa_x"]) @ p["att.time_maa_w1"]).reshape(5, -1)
    x_w, x_k, x_v, x_r, x_g = (
        x + delta * (p[f"att.time_maa_{j}"] + z[i] @ p["att.time_maa_w2"][i])
        for i, j in enumerate("wkvrg")
    )
    r = p["att.receptance.weight"] @ x_r
    k = p["att.key.weight"] @ x_k
    v = p["att.value.weight"] @ x_v
    g = silu(p["att.gate.weight"] @ x_g)
    e = p["att.time_decay"] + np.tanh(x_w @ p["att.time_decay_w1"]) @ p["att.time_decay_w2"]
    return matrix_state(p, s, r, k, v, np.exp(-np.exp(e)), p["att.time_faaaa"], g)


# -- version 7


def time_mix_7(p: Tensors, s: Tensors, x: Array, v_first: Array | None) -> tuple[Array, Array]:
    """Returns the first layer's v as well, which all later ones take as v_first."""
    heads, n, _ = s["wkv"].shape
    delta = shift(s, "att_x", x)
    x_r, x_w, x_k, x_v, x_a, x_g = (x + delta * p[f"att.x_{j}"] for j in "rwkvag")
    r = p["att.receptance.weight"] @ x_r
    k = p["att.key.weight"] @ x_k
    v = p["att.value.weight"] @ x_v
    w = p["att.w0"] + np.tanh(x_w @ p["att.w1"]) @ p["att.w2"]
    w = np.exp(-np.exp(-0.5) * sigmoid(w))
    a = sigmoid(p["att.a0"] + x_a @ p["att.a1"] @ p["att.a2"])
    g = sigmoid(x_g @ p["att.g1"]) @ p["att.g2"]
    kk = (k * p["att.k_k"]).reshape(heads, n)
    kk = kk / np.maximum(np.linalg.norm(kk, axis=1, keepdims=True), 1e-12)
    k = k * (1 + (a - 1) * p["att.k_a"])
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * sigmoid(p["att.v0"] + x_v @ p["att.v1"] @ p["att.v2"])

    r, w, k, v, a = (t.reshape(heads, n) for t in (r, w, k, v, a))
    state = s["wkv"]  # [value][key]
    removed = np.einsum("hij,hj->hi", state, kk)
    state = state * w[:, None, :] - removed[:, :, None] * (kk * a)[:, None, :]
    s["wkv"] = state = state + v[:, :, None] * k[:, None, :]
    y = norm(np.einsum("hij,hj->hi", state, r), p, "att.ln_x", 64e-5)
    y = y + (r * k * p["att.r_k"].reshape(heads, n)).sum(1, keepdims=True) * v
    return p["att.output.weight"] @ (y.reshape(-1) * g), v_first


def channel_mix_7(p: Tensors, s: Tensors, x: Array, token: int, x0: Array) -> Array:
    """x0 is LN0(emb[token]), which only the variants look at again."""
    delta = shift(s, "ffn_x", x)
    h = relu_squared(p["ffn.key.weight"] @ (x + delta * p["ffn.x_k"]))
    if "ffn.s_emb.weight" in p:  # 7a: DeepEmbed
        e = p["ffn.s_emb.weight"][token] + p["ffn.s_emb_x.weight"] @ x0
        h = h * ((x @ p["ffn.s1"]) @ e.reshape(32, 32) @ p["ffn.s2"] + p["ffn.s0"])
    y = p["ffn.value.weight"] @ h
    return y * p["ffn.enn.weight"][token] if "ffn.enn.weight" in p else y  # 8-rc00


def dea_7b(p: Tensors, s: Tensors, x: Array, token: int, x0: Array) -> Array:
    """A small attention over the whole text; x is the residual row before LN1."""
    k_token = p["qkv.k_emb.weight"][token] + p["qkv.k_emb_x.weight"] @ x0
    v_token = p["qkv.v_emb.weight"][token] + p["qkv.v_emb_x.weight"] @ x0
    q = p["qkv.qq.weight"] @ x
    k = (x @ p["qkv.k1"] @ p["qkv.k2"]) * k_token
    v = np.tanh(x @ p["qkv.v1"] @ p["qkv.v2"]) * v_token
    q = norm(q + shift(s, "q_x", q) * p["qkv.x_q"], p, "qkv.lnq")
    k = norm(k + shift(s, "k_x", k) * p["qkv.x_k"], p, "qkv.lnk")
    v = norm(v + shift(s, "v_x", v) * p["qkv.x_v"], p, "qkv.lnv")
    s["keys"] = np.vstack([s["keys"], k])
    s["values"] = np.vstack([s["values"], v])
    scores = np.exp(64 * np.tanh(s["keys"] @ q / 1024))
    return scores / scores.sum() @ s["values"]


# -- the whole


class Rwkv:
    """A checkpoint of any version, and its forward for one token."""

    def __init__(self, path: str | Path) -> None:
        self.outer: Tensors = {}  # what belongs to no layer
        self.layers: list[Tensors] = []
        for name, tensor in checkpoint.read(path).tensors.items():
            values = tensor.to_numpy().astype(np.float64)
            if values.shape[:2] == (1, 1):
                values = values.reshape(-1)
            if name.startswith("blocks."):
                _, layer, rest = name.split(".", 2)
                self.layers += [{} for _ in range(len(self.layers), int(layer) + 1)]
                self.layers[int(layer)][rest] = values
            else:
                self.outer[name] = values
        p = self.layers[0]
        self.width = self.outer["emb.weight"].shape[1]
        self.attention = p["att.key.weight"].shape[0]
        if "att.r_k" in p:
            self.version = "7"
            heads = p["att.r_k"].shape[0]
        elif "att.time_maa_x" in p:
            self.version, heads = "6", p["att.time_faaaa"].shape[0]
        elif "att.ln_x.weight" in p:
            self.version, heads = "5", p["att.time_decay"].shape[0]
        else:
            self.version, heads = "4", 0
        self.heads = heads

    def start(self, tuned: Tensors | None = None) -> list[Tensors]:
        """The state before the first token, one dict per layer, or a tuned one [value][key]."""
        d, a, h = self.width, self.attention, self.heads
        states = []
        for i, p in enumerate(self.layers):
            s = {"att_x": np.zeros(d), "ffn_x": np.zeros(d)}
            if self.version == "4":
                s |= {"aa": np.zeros(a), "bb": np.zeros(a), "pp": np.full(a, -1e30)}
            else:
                s["wkv"] = np.zeros((h, a // h, a // h))
            time_state = (tuned or {}).get(f"blocks.{i}.att.time_state", p.get("att.time_state"))
            if time_state is not None:
                s["wkv"] = time_state.copy()
                if self.version != "7":
                    s["wkv"] = s["wkv"].swapaxes(1, 2)
            if "qkv.qq.weight" in p:
                s |= {"q_x": np.zeros(256), "k_x": np.zeros(256), "v_x": np.zeros(d)}
                s |= {"keys": np.empty((0, 256)), "values": np.empty((0, d))}
            states.append(s)
        return states

    def forward(self, token: int, states: list[Tensors]) -> Array:
        """Logits [V] after `token`; moves `states` on."""
        x = x0 = norm(self.outer["emb.weight"][token], self.layers[0], "ln0")
        v_first = None
        for p, s in zip(self.layers, states, strict=True):
            xn = norm(x, p, "ln1")
            if self.version == "7":
                extra = dea_7b(p, s, x, token, x0) if "qkv.qq.weight" in p else 0
                y, v_first = time_mix_7(p, s, xn, v_first)
                x = x + y + extra
                x = x + channel_mix_7(p, s, norm(x, p, "ln2"), token, x0)
            else:
                time_mix = {"4": time_mix_4, "5": time_mix_5, "6": time_mix_6}[self.version]
                x = x + time_mix(p, s, xn)
                x = x + channel_mix_4(p, s, norm(x, p, "ln2"))
        return self.outer["head.weight"] @ norm(x, self.outer, "ln_out")

    def run(self, tokens: Iterable[int], states: list[Tensors]) -> Array:
        """Logits [T, V] of successive tokens."""
        return np.stack([self.forward(t, states) for t in tokens])


def arrays(states: list[Tensors]) -> Tensors:
    """A state as State.to_numpy gives it: [L, ...] per part."""
    names = [n for n in states[0] if n not in ("keys", "values")]
    return {n: np.stack([s[n] for s in states]) for n in names}
