"""The names of the official `rwkv` package: a script written for it runs by changing the import.

    from rwkv_native.compat import RWKV, PIPELINE, PIPELINE_ARGS

    model = RWKV(model="RWKV-x070-World-0.1B.pth", strategy="cpu fp32")
    pipeline = PIPELINE(model, "rwkv_vocab_v20230424")
    pipeline.generate("Hello", token_count=20, args=PIPELINE_ARGS(top_p=0.3), callback=print)

The demo model knows single bytes: `PIPELINE(RWKV(str(rn.demo_model())), "world-bytes")`.

What differs: logits and states are float32 numpy arrays instead of torch tensors (with the few
methods of tensors that such scripts call: `.detach()`, `.cpu()`, `.float()`, `.clone()`,
`.numpy()`); every version loads in one process and without environment variables; a path may also
name a .safetensors or .gguf file; token 0 decodes to "" instead of U+FFFD; generate() goes on after
a byte that begins no character, and says that an empty context is none. New code is better
served by Model and Engine. Calls model.py and tokenizer.py; knows nothing below them.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import InvalidError, UnsupportedError
from .model import Model
from .sampling import Sampling, probabilities
from .state import State
from .tokenizers import Tokenizer

__all__ = ["PIPELINE", "PIPELINE_ARGS", "RWKV", "TRIE_TOKENIZER", "Tensor"]

# The parts of one layer in a state list.
_PARTS = {"4": ("att_x", "aa", "bb", "pp", "ffn_x")}
_PARTS_SINCE_5 = ("att_x", "wkv", "ffn_x")
# Tokens of these characters count nothing towards the frequency penalty.
_UNCOUNTED = " \t0123456789"
_BAD_TEXT = "\ufffd"


class Tensor(np.ndarray):
    """A numpy array that also answers to what scripts call on a torch tensor."""

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return self

    def clone(self) -> Tensor:
        return self.copy()

    def numpy(self) -> np.ndarray:
        return self.view(np.ndarray)


class RWKV:
    """A model as the official package offers it.

    model: the path, with or without ".pth". strategy: as Model.open takes it, also with layer
    splits. Raises as Model.open does. `verbose` is ignored: nothing is printed.

    Attributes that scripts read: args (n_layer, n_embd, n_att, n_ffn, vocab_size, head_size,
    MODEL_NAME, strategy_string), most of the sizes on the object itself, and version, a number.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        strategy: str = "auto",
        verbose: bool = True,
        convert_and_save_and_exit: str | None = None,
    ) -> None:
        if convert_and_save_and_exit is not None:
            raise UnsupportedError(
                "files converted for one strategy are not written; use `rwkv-native convert`,"
                " whose .safetensors loads with any strategy"
            )
        given = os.fspath(model)
        self.model = Model.open(given if Path(given).is_file() else _with_suffix(given), strategy)
        info = self.model.info
        if info.version == "7b":
            raise UnsupportedError(
                "a state of RWKV-7b grows with the text and is no list of arrays; use"
                " rwkv_native.Model, which runs it"
            )
        self.args = SimpleNamespace(
            MODEL_NAME=given,
            strategy_string=strategy,
            n_layer=info.layers,
            n_embd=info.width,
            n_att=info.heads * info.head_size or info.width,
            n_ffn=info.ffn,
            head_size=info.head_size,
            vocab_size=info.vocab,
        )
        self.n_layer, self.n_embd, self.n_head = info.layers, info.width, info.heads
        self.head_size, self.vocab_size = info.head_size, info.vocab
        self.version = float(info.version.rstrip("abcr"))
        self._parts = _PARTS.get(info.version, _PARTS_SINCE_5)

    def generate_zero_state(self) -> list[Tensor]:
        """The state before the first token (or the tuned one that the checkpoint holds).

        A flat list, layer after layer. Version 4: att_x, aa, bb, pp, ffn_x. Since 5: att_x, wkv,
        ffn_x; wkv is [head][key][value] in 5 and 6, [head][value][key] since 7.
        """
        return self._list(self.model.zero_state())

    def forward(
        self,
        tokens: int | Sequence[int],
        state: list[Any] | None,
        full_output: bool = False,
    ) -> tuple[Tensor, list[Any]]:
        """(logits, state) after `tokens`.

        logits: float32 [vocab] after the last token; [tokens, vocab] with full_output and more than
        one token. state: None, or a list of this model, which is CHANGED IN PLACE: its elements are
        replaced. copy.deepcopy keeps one. Raises ValueError for no tokens, ids outside the
        vocabulary, or a state of other sizes.
        """
        ids = [tokens] if np.ndim(tokens) == 0 else list(tokens)  # type: ignore[arg-type]
        before = None if state is None else self._state(state)
        full = full_output and len(ids) > 1
        logits, after = self.model.forward(ids, before, full=full)
        arrays = self._list(after)
        if state is None:
            state = arrays
        else:
            state[:] = arrays
        return logits.view(Tensor), state

    def _list(self, state: State) -> list[Tensor]:
        arrays = state.to_numpy()
        layers = range(self.n_layer)
        return [arrays[part][i].copy().view(Tensor) for i in layers for part in self._parts]

    def _state(self, state: list[Any]) -> State:
        step, wanted = len(self._parts), self.n_layer * len(self._parts)
        if not isinstance(state, list) or len(state) != wanted:
            found = f"{len(state)} elements" if isinstance(state, list) else type(state).__name__
            raise InvalidError(f"state must be a list of {wanted} arrays or None, not {found}")
        arrays = {
            part: np.stack([np.asarray(a, np.float32) for a in state[i::step]])
            for i, part in enumerate(self._parts)
        }
        return State.from_numpy(self.model, arrays)


def _with_suffix(path: str) -> str:
    return path if path.endswith(".pth") else path + ".pth"


class TRIE_TOKENIZER:
    """The World tokenizer: by the official file's name, or from any file of that form."""

    def __init__(self, file_name: str | os.PathLike[str]) -> None:
        self._tokenizer = Tokenizer.open(file_name)

    def encodeBytes(self, src: bytes) -> list[int]:
        return self._tokenizer.encode_bytes(src)

    def decodeBytes(self, tokens: Iterable[int]) -> bytes:
        return self._tokenizer.decode_bytes(tokens)

    def encode(self, src: str) -> list[int]:
        return self._tokenizer.encode(src)

    def decode(self, tokens: Iterable[int]) -> str:
        """One U+FFFD for the whole where the bytes are not UTF-8 or an id is unknown."""
        try:
            return self.decodeBytes(tokens).decode()
        except ValueError:
            return _BAD_TEXT

    def printTokens(self, tokens: Iterable[int]) -> None:
        print(" ".join(f"{self.decode([token])!r}{token}" for token in tokens))


class PIPELINE_ARGS:
    """How PIPELINE.generate draws; the defaults are the official ones."""

    def __init__(
        self,
        temperature: float = 1.0,
        top_p: float = 0.85,
        top_k: int = 0,
        alpha_frequency: float = 0.2,
        alpha_presence: float = 0.2,
        alpha_decay: float = 0.996,
        token_ban: Sequence[int] | None = None,
        token_stop: Sequence[int] | None = None,
        chunk_len: int = 256,
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.alpha_frequency = alpha_frequency
        self.alpha_presence = alpha_presence
        self.alpha_decay = alpha_decay
        self.token_ban = [] if token_ban is None else token_ban
        self.token_stop = [] if token_stop is None else token_stop
        self.chunk_len = chunk_len


class PIPELINE:
    """A model with a tokenizer.

    WORD_NAME: "rwkv_vocab_v20230424", or the path of a HuggingFace tokenizer.json; also whatever
    else Tokenizer.open knows.
    """

    def __init__(self, model: RWKV, WORD_NAME: str | os.PathLike[str]) -> None:
        if os.fspath(WORD_NAME) == "cl100k_base":
            raise UnsupportedError(
                "cl100k_base is not offered; use 'rwkv_vocab_v20230424' or a tokenizer.json"
            )
        self.model = model
        if os.fspath(WORD_NAME).endswith(".json"):
            self.tokenizer: TRIE_TOKENIZER | Tokenizer = Tokenizer.open(WORD_NAME)
        else:
            self.tokenizer = TRIE_TOKENIZER(WORD_NAME)

    def refine_context(self, context: str) -> str:
        """Lines without blanks around them or empty ones between, after one line break."""
        lines = [line.strip().strip("\u3000").strip("\r") for line in context.strip().split("\n")]
        return "\n" + "\n".join(line for line in lines if line).strip()

    def encode(self, x: str) -> list[int]:
        ids = self.tokenizer.encode(x)
        rows = getattr(self.model, "vocab_size", None)
        if rows is not None and max(ids, default=0) >= rows:
            raise InvalidError(
                f"this tokenizer has the id {max(ids)} and the model only {rows} rows: give"
                " PIPELINE the tokenizer of its training; that of the demo model is 'world-bytes'"
            )
        return ids

    def decode(self, x: Iterable[int]) -> str:
        return self.tokenizer.decode(x)

    def sample_logits(
        self, logits: Any, temperature: float = 1.0, top_p: float = 0.85, top_k: int = 0
    ) -> int:
        """Draws a token: softmax, top-p, top-k, then the temperature; temperature 0 is greedy.

        Uses numpy's global generator, as the package does: np.random.seed makes it repeatable.
        """
        if temperature == 0:
            temperature, top_p = 1.0, 0.0
        top_p = min(max(top_p, 0.0), 1.0)  # above 1 is all of them there
        sampling = Sampling(temperature=temperature, top_p=top_p, top_k=max(int(top_k), 0))
        p = probabilities(np.asarray(logits, np.float32), sampling)
        return int(np.random.choice(p.size, p=p))

    def generate(
        self,
        ctx: str,
        token_count: int = 100,
        args: PIPELINE_ARGS | None = None,
        callback: Callable[[str], Any] | None = None,
        state: list[Any] | None = None,
    ) -> str:
        """The text of at most `token_count` tokens drawn after `ctx`.

        Penalties: a token seen loses alpha_presence, and alpha_frequency times its count; counts
        fade by alpha_decay with every token, and digits and blanks are not counted. callback gets
        every piece of text as soon as its bytes are whole; bytes that begin no character become
        U+FFFD, and an incomplete last character is dropped. `state` is changed in place.
        Raises ValueError for a `ctx` of no tokens, after which nothing could be drawn.
        """
        args = args or PIPELINE_ARGS()
        text = ""
        whole = codecs.getincrementaldecoder("utf-8")("replace")
        counts: dict[int, float] = {}
        tokens = self.encode(ctx)
        if not tokens:
            raise InvalidError("ctx has no tokens: give at least one, such as a line feed")
        for _ in range(token_count):
            for at in range(0, len(tokens), args.chunk_len):
                logits, state = self.model.forward(tokens[at : at + args.chunk_len], state)
            for token in args.token_ban:
                logits[token] = -np.inf
            for token, count in counts.items():
                logits[token] -= args.alpha_presence + count * args.alpha_frequency
            token = self.sample_logits(logits, args.temperature, args.top_p, args.top_k)
            if token in args.token_stop:
                break
            counts = {seen: count * args.alpha_decay for seen, count in counts.items()}
            counts[token] = counts.get(token, 0) + (self.decode([token]) not in _UNCOUNTED)
            tokens = [token]
            piece = whole.decode(self._printed(token))
            text += piece
            if piece and callback:
                callback(piece)
        return text

    def _printed(self, token: int) -> bytes:
        found = self.tokenizer
        return (found._tokenizer if isinstance(found, TRIE_TOKENIZER) else found)._printed([token])
