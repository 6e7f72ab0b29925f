"""Families: which one a model belongs to, and the rules of each (runner-api 2.1, 3.1, 3.2)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native.sampling import probe
from web.engine.families import ABC, FAMILIES, G1, MIDI, RAVEN, REMI, WORLD, Persona, effective
from web.engine.families import persona_for as choose
from web.engine.generation import sampling_for
from web.engine.requests import SamplingOptions
from web.schemas.fields import Fields
from web.schemas.sampling import sampling_of


def persona_for(
    tokenizer: str,
    vocab: int = 65536,
    version: str = "7",
    path: str = "m.pth",
    context: int | None = None,
    **metadata: str,
) -> Persona:
    named = {f"rwkv.{key}": value for key, value in metadata.items()}
    info: Any = SimpleNamespace(vocab=vocab, version=version, path=path, metadata=named)
    info.context_length = context
    made: Any = SimpleNamespace(name=tokenizer)
    return choose(info, made)


# -- which family


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (("world",), "world"),
        (("world", 65600), "world"),
        (("world", 100), "world"),
        (("world-bytes", 257), "world"),
        (("gguf",), "world"),
        (("mine", 65536), "world"),
        (("mine", 65535), "raven"),
        (("20B", 50277), "raven"),
        (("20B", 50277, "7"), "raven"),
        (("midi", 20096), "midi"),
        (("tokenizer-midi", 20096), "midi"),
        (("my-music", 20096), "midi"),
        (("midi-piano", 2176), "midi-piano"),
        (("tokenizer-midipiano", 2176), "midi-piano"),
        (("abc", 128), "abc"),
        (("abc_new", 200), "abc"),
        (("remi", 1000), "remi"),
    ],
    ids=str,
)
def test_family_by_tokenizer(model: tuple[Any, ...], family: str) -> None:
    assert persona_for(*model).family == family


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_family_by_metadata(name: str) -> None:
    assert persona_for("world", family=name).family == name
    assert persona_for("midi", 20096, family=name.upper()).family == name


def test_other_metadata() -> None:
    assert persona_for("20B", 50277, family="pile").family == "raven"
    assert persona_for("20B", 50277, family="klingon").family == "raven"


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("models/rwkv7-g1-1.5b-20250429-ctx4096.pth", "g1"),
        ("rwkv-g1k-13b-5228.pth", "g1"),
        ("RWKV7-G1a-0.1B.safetensors", "g1"),
        ("RWKV7_G0_7.2B.pth", "g1"),
        ("RWKV-x070-World-0.4B-v2.9.pth", "world"),
        ("g1/model.pth", "world"),
        ("rwkv-log1-big1.pth", "world"),
        ("rwkv-g10b.pth", "world"),
    ],
)
def test_reasoning_models_by_their_names(path: str, family: str) -> None:
    assert persona_for("world", path=path).family == family
    assert persona_for("world", path=path, version="6").family == "world"
    assert persona_for("world", path=path, family="world").family == "world"


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ({"path": "RWKV7-7.2B-20260805/model.safetensors"}, "world"),
        ({"path": "RWKV7-7.2B-20260805/model.safetensors", "thinks": "yes"}, "g1"),
        ({"path": "RWKV7-7.2B-20260805/model.safetensors", "context": 25600}, "g1"),
        ({"path": "rwkv-x.pth", "context": 8192}, "g1"),
        ({"path": "rwkv-x.pth", "context": 4096}, "world"),
        ({"path": "RWKV7-G1k-1.5B/model.safetensors.index.json"}, "g1"),
        ({"path": "RWKV7-G1k-1.5B/model.safetensors", "thinks": "no"}, "g1"),
        ({"path": "c/models--RWKV--RWKV7-G1k-7.2B/snapshots/0a1/model.safetensors"}, "g1"),
        ({"path": "m.pth", "thinks": "yes", "family": "world"}, "world"),
        ({"path": "m.pth", "thinks": "yes", "version": "6.0"}, "world"),
    ],
    ids=str,
)
def test_reasoning_models_by_what_lies_beside_them(model: dict[str, Any], family: str) -> None:
    assert persona_for("world", **model).family == family


def test_prompts_of_version_4() -> None:
    assert persona_for("20B", 50277, "4").prompt == "version 4"
    assert persona_for("world", 65536, "4").prompt == "version 4"
    for version in ("5.0", "5.1", "5.2", "6", "7"):
        assert persona_for("world", 65536, version).prompt == "world"
        assert persona_for("20B", 50277, version).prompt == "world"


# -- the table


@pytest.mark.parametrize(
    ("persona", "names"), [(WORLD, "User Assistant"), (G1, "User Assistant"), (RAVEN, "Bob Alice")]
)
def test_names(persona: Persona, names: str) -> None:
    assert f"{persona.user} {persona.assistant}" == names and persona.chats
    assert (persona.system, persona.tool) == ("System", "Observation")


@pytest.mark.parametrize(
    ("family", "max_tokens", "top_p", "top_k"),
    [
        ("world", 500, 0.3, 0),
        ("g1", 500, 0.3, 0),
        ("raven", 500, 0.3, 0),
        ("midi", 500, 0.8, 8),
        ("midi-piano", 500, 0.8, 8),
        ("abc", 500, 0.8, 8),
        ("remi", 1000, 0.8, 0),
    ],
)
def test_defaults(family: str, max_tokens: int, top_p: float, top_k: int) -> None:
    use = effective(SamplingOptions(), FAMILIES[family])
    assert (use.max_tokens, use.temperature, use.top_p, use.top_k) == (max_tokens, 1, top_p, top_k)
    assert use.min_p == 0 and use.global_penalty is False
    if FAMILIES[family].chats:
        assert (use.presence_penalty, use.frequency_penalty, use.penalty_decay) == (0, 1, 0.996)


def test_what_a_request_changes() -> None:
    use = effective(SamplingOptions(temperature=0.05, top_p=0.0, max_tokens=3), WORLD)
    assert (use.temperature, use.top_p, use.max_tokens) == (0.1, 0, 3)
    assert effective(SamplingOptions(temperature=0.0), WORLD).temperature == 0
    use = effective(SamplingOptions(presence_penalty=0.4, penalty_decay=0.99), RAVEN)
    assert (use.presence_penalty, use.penalty_decay) == (0.4, 0.99)


@pytest.mark.parametrize("family", ["midi", "midi-piano", "abc", "remi"])
def test_penalties_of_music_are_its_own(family: str) -> None:
    asked = {
        "presence_penalty": 2,
        "frequency_penalty": 2,
        "penalty_decay": 0.99,
        "global_penalty": True,
    }
    persona = FAMILIES[family]
    fields = sampling_of(Fields({**asked, "top_p": 0.5, "top_k": 3, "temperature": 0.7}))
    use = effective(fields, persona)
    plain = effective(SamplingOptions(), persona)
    for name in asked:
        assert getattr(use, name) == getattr(plain, name)
    assert (use.top_p, use.top_k, use.temperature) == (0.5, 3, 0.7)
    assert not persona.chats


def gains(persona: Persona, drawn: list[int], **asked: Any) -> dict[int, float]:
    """What is added to logits before the next draw; 199 stands for all others."""
    fields = sampling_of(Fields({"top_p": 1, "top_k": 0, **asked}))
    p, _ = probe(np.zeros(200, np.float32), sampling_for(persona, fields), drawn)
    gain = np.log(p / p[199])
    return {int(t): round(float(gain[t]), 9) for t in np.flatnonzero(np.abs(gain) > 1e-9)}


@pytest.mark.parametrize("family", ["midi", "midi-piano"])
def test_the_law_of_midi(family: str) -> None:
    """runner-api 11.3, through the fields that a request leads to."""
    persona = FAMILIES[family]
    drawn = [130, 20, 130, 127, 126]
    expected = [
        {0: -4, 127: -1},
        {0: -3.998, 127: -1, 130: -0.5},
        {0: -3.996, 127: -1, 130: -0.4985, 20: -0.15},
        {0: -3.994, 127: -1, 130: -0.9970045, 20: -0.14955},
        {0: -3.992, 127: -1.5, 130: -0.9940134865, 20: -0.14910135},
    ]
    for i, numbers in enumerate(expected):
        found = gains(persona, drawn[:i], frequency_penalty=2)
        assert found.keys() == numbers.keys()
        assert all(abs(found[t] - numbers[t]) < 1e-6 for t in numbers), i


def test_a_request_s_bias_adds_to_the_family_s() -> None:
    assert gains(MIDI, [], logit_bias={"0": 1, "5": 2}) == {0: -3, 5: 2, 127: -1}
    assert MIDI.bias == {0: -4, 127: -1}


@pytest.mark.parametrize("persona", [ABC, REMI])
def test_no_penalties(persona: Persona) -> None:
    assert gains(persona, [5, 5, 9], presence_penalty=1) == {}


def test_ends() -> None:
    def ends(persona: Persona) -> Any:
        return sampling_for(persona, SamplingOptions()).end_token_ids

    assert ends(MIDI) == (0, 2)
    # The tokenizer's own.
    assert ends(WORLD) is ends(RAVEN) is ends(ABC) is ends(REMI) is None
    assert rn.Tokenizer.named("abc").end_ids == (3,) and rn.Tokenizer.world().end_ids == (0,)


def test_blank_prompts() -> None:
    assert (MIDI.start, ABC.start, REMI.start, WORLD.start) == ("<pad>", "\x02", "", None)
    assert rn.Tokenizer.named("midi").encode(MIDI.start) == [0]
    assert rn.Tokenizer.named("abc").encode(ABC.start) == [2]


# -- tokens that rules speak of


def test_special_tokens_belong_to_their_vocabulary() -> None:
    world = persona_for("world")
    assert world.no_repeat == (19137, 19151, 19156, 19126) and len(world.exempt) == 51
    assert persona_for("world", path="rwkv7-g1.pth").exempt == world.exempt
    pile = persona_for("20B", 50277)
    assert pile.no_repeat == (6238, 18140, 26443, 26680)
    assert set(pile.no_repeat) < set(pile.exempt) and len(pile.exempt) == 50
    assert {2, 7, 9, 33, 60, 65, 92, 95, 187, 209, 668, 1628, 4340} < set(pile.exempt)
    assert not {8, 34, 59, 66, 91, 96} & set(pile.exempt)
    for name, rows in (("another", 65536), ("another", 50277), ("gguf", 65536)):
        other = persona_for(name, rows)
        assert other.no_repeat == other.exempt == ()


def test_bytes_alone() -> None:
    persona = persona_for("world-bytes", 257)
    assert persona.no_repeat == () and max(persona.exempt) <= 256
    assert persona.defaults.frequency_penalty == 0, "letters come back all the time"


def test_exempt_tokens_are_the_documented_characters() -> None:
    """Single bytes have id byte + 1 in the World vocabulary."""
    characters = '\n,.:?!"<>[]{}/\\|;~`@#$%^&*()_+-=0123456789 '
    exempt = persona_for("world").exempt
    assert {i for i in exempt if i <= 256} == {ord(c) + 1 for c in characters}
    tokenizer = rn.Tokenizer.world()
    wide = "\uff0c\u3002\uff1a\uff1f\uff01\u201c\u201d\uff1b"
    assert [tokenizer.encode(c) for c in wide] == [
        [i] for i in (19137, 10080, 19151, 19156, 19126, 9822, 9823, 19152)
    ]
    assert {tokenizer.encode(c)[0] for c in wide} == {i for i in exempt if i > 256}
    assert tokenizer.decode(persona_for("world").no_repeat) == "\uff0c\uff1a\uff1f\uff01"


def test_ids_that_a_model_lacks_are_left_out() -> None:
    """Any tokenizer may be chosen for any model; its requests must still be possible."""
    small = persona_for("world", 60)
    assert small.no_repeat == () and max(small.exempt) < 60
    tiny = persona_for("midi", 100)
    assert set(tiny.bias) == {0} and max(tiny.weights) < 100 and tiny.end_ids == (0, 2)
