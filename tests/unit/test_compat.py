"""The names of the official package: shapes, orders and the law of generate()."""

from __future__ import annotations

import copy
import lzma
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native.compat import PIPELINE, PIPELINE_ARGS, RWKV, TRIE_TOKENIZER


@pytest.fixture(scope="module")
def model(golden: Path) -> RWKV:
    return RWKV(model=str(golden / "v70_L3_D32_fp32"), strategy="cpu fp32", verbose=False)


@pytest.fixture(scope="module")
def byte_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 256 single bytes of World's vocabulary, in the form of its file."""
    path = tmp_path_factory.mktemp("vocab") / "bytes.txt"
    lines = [f"{b + 1} {bytes([b])!r} 1" for b in range(256)]
    path.write_text("\n".join(lines) + "\n")
    return path


# -- RWKV


def test_a_script_for_the_package(golden: Path, byte_file: Path) -> None:
    """What its users write, with only the import changed."""
    model = RWKV(model=str(golden / "v70_L3_D32_fp32"), strategy="cpu fp32")
    out, state = model.forward([187, 51, 156], None)
    first = out.detach().cpu().numpy()
    out, state = model.forward([187, 51], None)
    out, state = model.forward([156], state)
    assert np.array_equal(out.detach().cpu().numpy(), first)

    pipeline = PIPELINE(model, str(byte_file))
    state = model.generate_zero_state()
    for token in pipeline.encode("Question: why?\n\nAnswer:"):
        out, state = model.forward(token, state)
    kept = copy.deepcopy(state)
    answer = []
    for _ in range(5):
        token = pipeline.sample_logits(out, temperature=0)
        answer.append(token)
        out, state = model.forward([token], state)
    assert [a.shape for a in state] == [a.shape for a in kept]

    pieces = []
    args = PIPELINE_ARGS(temperature=0, alpha_frequency=0, alpha_presence=0, token_stop=[0])
    text = pipeline.generate(
        "Question: why?\n\nAnswer:", token_count=5, args=args, callback=pieces.append
    )
    assert "".join(pieces) == text
    drawn = pipeline.tokenizer.decodeBytes(answer).decode("utf-8", "replace")
    assert text and drawn.startswith(text)


@pytest.mark.parametrize(
    "name",
    ["v4_L2_D64_bf16", "v51_L2_D64_bf16", "v52_L3_D32_fp32", "v60_L3_D32_fp32", "v70_L3_D32_fp32"],
)
def test_states_in_the_official_order(name: str, golden: Path, tmp_path: Path) -> None:
    path = golden / f"{name}.pth"
    if not path.exists():
        path = tmp_path / path.name
        path.write_bytes(lzma.decompress((golden / f"{name}.pth.xz").read_bytes()))
    model = RWKV(model=path, strategy="cpu fp32")
    with np.load(golden / f"{name}.npz") as file:
        arrays = {k.removeprefix("state_step_"): file[k] for k in file.files}
        arrays |= {k.removeprefix("ref64_state_"): file[k] for k in file.files}
    order = (
        ["att_x", "aa", "bb", "pp", "ffn_x"] if model.version == 4 else ["att_x", "wkv", "ffn_x"]
    )
    logits, state = model.forward(arrays["tokens"].tolist()[:9], None)
    again, same = model.forward(arrays["tokens"].tolist()[9:], state, full_output=True)
    assert same is state and again.shape == (15, model.vocab_size)
    assert logits.shape == (model.vocab_size,) and logits.dtype == np.float32
    scale = np.abs(arrays["ref64_logits"]).max()
    assert np.abs(again - arrays["ref64_logits"][9:]).max() <= 1e-5 * scale
    assert len(state) == model.n_layer * len(order)
    for i, found in enumerate(state):
        expected = arrays[order[i % len(order)]][i // len(order)]
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_the_list_changes_in_place(model: RWKV) -> None:
    _, state = model.forward([1, 2], None)
    kept, elements = copy.deepcopy(state), list(state)
    a, returned = model.forward([3], state)
    assert returned is state and not np.array_equal(state[0], kept[0])
    assert all(np.array_equal(x, y) for x, y in zip(elements, kept, strict=True))
    b, _ = model.forward(3, kept)
    assert np.array_equal(a, b)
    # Elements may be replaced, also by plain arrays.
    edited = [np.zeros_like(x).numpy() for x in kept]
    assert np.array_equal(model.forward([1], edited)[0], model.forward([1], None)[0])


def test_full_output(model: RWKV) -> None:
    assert model.forward([1, 2, 3], None, full_output=True)[0].shape == (3, 257)
    assert model.forward([1], None, True)[0].shape == (257,)
    assert model.forward(np.array([1, 2]), None)[0].shape == (257,)


def test_arrays_answer_like_tensors(model: RWKV) -> None:
    out, state = model.forward([1], None)
    assert type(out.numpy()) is np.ndarray and out.float() is out
    clone = state[1].clone()
    clone[:] = 7
    assert not np.array_equal(state[1], clone)
    out[3] = -float("inf")  # writable
    out -= 1


def test_sizes(model: RWKV) -> None:
    args = model.args
    assert (args.n_layer, args.n_embd, args.vocab_size, args.n_ffn) == (3, 32, 257, 128)
    assert (args.n_att, args.head_size, model.n_head, model.version) == (32, 16, 2, 7.0)
    assert args.strategy_string == "cpu fp32" and args.MODEL_NAME.endswith("v70_L3_D32_fp32")
    zero = model.generate_zero_state()
    assert [a.shape for a in zero[:3]] == [(32,), (2, 16, 16), (32,)]
    assert not any(a.any() for a in zero)


def test_refusals(model: RWKV, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RWKV(model=str(tmp_path / "none"), strategy="cpu fp32")
    with pytest.raises(ValueError, match="cpu fp16"):
        RWKV(model=str(golden / "v70_L3_D32_fp32"), strategy="cuda fp16")
    with pytest.raises(rn.UnsupportedError, match="convert"):
        RWKV(str(golden / "v70_L3_D32_fp32"), "cpu fp32", convert_and_save_and_exit="x")
    for state in ([], [np.zeros(3)] * 9, {"a": 1}, model.generate_zero_state()[:-1]):
        with pytest.raises(ValueError, match="state"):
            model.forward([1], state)
    for tokens in ([], [257], [-1], ["a"]):
        with pytest.raises(ValueError):
            model.forward(tokens, None)
    with pytest.raises(rn.UnsupportedError, match="cl100k_base"):
        PIPELINE(model, "cl100k_base")


def test_7b_is_refused(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "7b.pth"
    path.write_bytes(lzma.decompress((golden / "v7b_L2_D16_bf16.pth.xz").read_bytes()))
    with pytest.raises(rn.UnsupportedError, match=r"rwkv_native\.Model"):
        RWKV(model=str(path), strategy="cpu fp32")


# -- PIPELINE


class Scripted:
    """A model that wants one token after the other, and remembers what it was fed."""

    def __init__(self, wanted: list[int]) -> None:
        self.wanted = wanted
        self.fed: list[list[int]] = []
        self.logits: list[np.ndarray] = []

    def forward(self, tokens: list[int], state: list | None) -> tuple[np.ndarray, list]:
        logits = np.zeros(257, np.float32)
        logits[self.wanted[min(len(self.fed), len(self.wanted) - 1)]] = 50
        self.fed.append(list(tokens))
        self.logits.append(logits)  # generate() subtracts the penalties from this very array
        return logits, []


def generate(wanted: list[int], byte_file: Path, **options: object) -> tuple[str, Scripted, list]:
    model = Scripted(wanted)
    pieces: list[str] = []
    pipeline = PIPELINE(model, byte_file)
    count = options.pop("token_count", len(wanted))
    args = PIPELINE_ARGS(**{"temperature": 0, **options})
    text = pipeline.generate("xy", token_count=count, args=args, callback=pieces.append)
    return text, model, pieces


def ids(text: str) -> list[int]:
    return [b + 1 for b in text.encode()]


def test_text_comes_when_its_bytes_are_whole(byte_file: Path) -> None:
    text, _, pieces = generate(ids("aé日!"), byte_file)
    assert text == "aé日!" and pieces == ["a", "é", "日", "!"]
    text, _, pieces = generate(ids("a日")[:-1], byte_file)
    assert text == "a" and pieces == ["a"]


def test_stray_bytes_end_nothing(byte_file: Path) -> None:
    """The official package waits for ever for a character that 0xff does not begin."""
    drawn = [*ids("a"), 0xFF + 1, 0xE6 + 1, *ids("b日!")]
    text, _, pieces = generate(drawn, byte_file)
    assert text == "a\ufffd\ufffdb日!" and "".join(pieces) == text


def test_a_context_of_nothing(byte_file: Path) -> None:
    pipeline = PIPELINE(Scripted([]), str(byte_file))  # type: ignore[arg-type]
    with pytest.raises(rn.InvalidError, match="ctx has no tokens"):
        pipeline.generate("")


def test_stops_bans_and_chunks(byte_file: Path) -> None:
    text, model, _ = generate(ids("abcd"), byte_file, token_stop=ids("d"))
    assert text == "abc" and len(model.fed) == 4
    text, model, _ = generate(ids("ab"), byte_file, token_ban=ids("b"), token_count=2)
    assert text[0] == "a" and text != "ab" and np.isneginf(model.logits[1][99])
    _, model, _ = generate(ids("a"), byte_file, chunk_len=1, token_count=1)
    assert model.fed == [[ord("x") + 1], [ord("y") + 1]]
    assert generate(ids("a"), byte_file, token_count=0)[0] == ""


def test_penalties(byte_file: Path) -> None:
    wanted = [*ids("aab1a 1"), 5]
    presence, frequency, decay = 0.4, 0.5, 0.9
    _, model, _ = generate(
        wanted,
        byte_file,
        alpha_presence=presence,
        alpha_frequency=frequency,
        alpha_decay=decay,
    )
    counts: dict[int, float] = {}
    for wish, logits in zip(wanted, model.logits, strict=True):
        expected = np.zeros(257)
        expected[wish] = 50
        for token, count in counts.items():
            expected[token] -= presence + count * frequency
        assert np.abs(logits - expected).max() < 1e-5
        counts = {t: c * decay for t, c in counts.items()}
        counts[wish] = counts.get(wish, 0) + (0 if chr(wish - 1) in " \t0123456789" else 1)


def test_sampling_follows_numpys_generator(model: RWKV, byte_file: Path) -> None:
    pipeline = PIPELINE(model, byte_file)
    logits, _ = model.forward([1, 2, 3], None)
    options = {"temperature": 1.5, "top_p": 0.9, "top_k": 30}
    np.random.seed(3)
    first = [pipeline.sample_logits(logits, **options) for _ in range(20)]
    np.random.seed(3)
    assert first == [pipeline.sample_logits(logits, **options) for _ in range(20)]
    assert len(set(first)) > 5
    p = rn.probabilities(logits.numpy(), rn.Sampling(**options))
    assert all(p[t] > 0 for t in first)
    assert pipeline.sample_logits(logits, temperature=0) == int(logits.argmax())
    assert pipeline.sample_logits([1.0, 5.0, 2.0], top_k=1) == 1
    drawn = {pipeline.sample_logits([2.0, 2.0, 1.0], temperature=0) for _ in range(60)}
    assert drawn == {0, 1}  # ties are drawn from, as the package does


def test_defaults_and_contexts(model: RWKV, byte_file: Path) -> None:
    args = PIPELINE_ARGS()
    assert (args.temperature, args.top_p, args.top_k, args.chunk_len) == (1.0, 0.85, 0, 256)
    assert (args.alpha_frequency, args.alpha_presence, args.alpha_decay) == (0.2, 0.2, 0.996)
    assert args.token_ban == [] and args.token_stop == []
    assert PIPELINE_ARGS().token_ban is not args.token_ban
    pipeline = PIPELINE(model, byte_file)
    assert pipeline.refine_context("  a \r\n\n\u3000b\u3000\n \n") == "\na\nb"
    assert pipeline.refine_context("") == "\n" and pipeline.refine_context("\n\n") == "\n"


def test_the_trie_tokenizer(byte_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trie = TRIE_TOKENIZER(byte_file)
    assert trie.encode("é") == [0xC3 + 1, 0xA9 + 1] == trie.encodeBytes("é".encode())
    assert trie.decode([0xC3 + 1, 0xA9 + 1]) == "é" and trie.decodeBytes([98]) == b"a"
    # One U+FFFD for the whole.
    assert trie.decode([98, 0xC3 + 1]) == trie.decode([98, 9999]) == "\ufffd"
    trie.printTokens([98])
    assert capsys.readouterr().out == "'a'98\n"
    world = TRIE_TOKENIZER("rwkv_vocab_v20230424.txt")
    assert world.encode("User: hello\n\nAssistant:") == [24281, 59, 38685, 261, 5585, 41693, 59]
    assert world.decode(world.encode("日本 ok")) == "日本 ok"
