"""The law of drawing, through the exact distribution that the engine draws from."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import rwkv_native as rn
from rwkv_native.sampling import probe

VECTORS = json.loads((Path(__file__).parent / "data" / "sampling-vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: c["name"])
def test_recorded_distributions(case: dict) -> None:
    sampling = rn.Sampling(
        temperature=case["temperature"], top_p=case["top_p"], top_k=case["top_k"]
    )
    found = rn.probabilities(np.float32(case["logits"]), sampling)
    assert found.dtype == np.float64
    assert np.abs(found - case["probabilities"]).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_p": 0.7}, [0, 0, 0.268941, 0.731059]),
        ({"top_p": 0.5}, [0, 0, 0, 1]),
        ({"top_p": 0}, [0, 0, 0, 1]),
        ({"top_k": 2}, [0, 0, 0.268941, 0.731059]),
        ({"temperature": 2, "top_p": 0.9}, [0, 0.186324, 0.307196, 0.506480]),
        ({"temperature": 0.5}, [0.002144, 0.015842, 0.117059, 0.864955]),
        ({"temperature": 0}, [0, 0, 0, 1]),
        ({"min_p": 0.2}, [0, 0, 0.268941, 0.731059]),
    ],
)
def test_drawing(options: dict, expected: list[float]) -> None:
    found = rn.probabilities(np.float32([1, 2, 3, 4]), rn.Sampling(**options))
    assert np.abs(found - expected).max() < 1e-6


def test_ties_at_the_cut_stay() -> None:
    found = rn.probabilities(np.float32([2, 2, 2, 1]), rn.Sampling(top_p=0.3))
    assert np.abs(found - [1 / 3, 1 / 3, 1 / 3, 0]).max() < 1e-6


@pytest.mark.parametrize("top_p", [1, 1.0])
def test_top_p_of_one_is_off(top_p: float) -> None:
    """A float32 sum of 65536 terms may stay below 1; the cut must not turn that into greedy."""
    logits = np.random.default_rng(1).normal(size=65536).astype(np.float32)
    found = rn.probabilities(logits, rn.Sampling(top_p=top_p))
    assert np.abs(found - rn.probabilities(logits)).max() == 0
    assert (found > 0).all()


# -- penalties: what is subtracted shows in the odds against an untouched token


def subtracted(sampling: rn.Sampling, drawn: list[int], prompt: list[int] = ()) -> dict[int, float]:
    vocab, untouched = 64, 63
    p, _ = probe(np.zeros(vocab, np.float32), sampling, drawn, prompt)
    loss = np.log(p[untouched] / p)
    return {int(t): float(loss[t]) for t in np.flatnonzero(np.abs(loss) > 1e-9)}


def close(found: dict[int, float], expected: dict[int, float]) -> bool:
    return found.keys() == expected.keys() and all(
        abs(found[t] - expected[t]) < 1e-6 for t in expected
    )


PENALTIES = {"presence_penalty": 0.3, "frequency_penalty": 0.5, "penalty_decay": 0.996}


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ([], {}),
        ([5], {5: 0.8}),
        ([5, 5], {5: 1.298}),
        ([5, 5, 7], {5: 1.294008, 7: 0.8}),
        ([5, 5, 7, 5], {5: 1.790031968, 7: 0.798}),
    ],
)
def test_penalties(drawn: list[int], expected: dict[int, float]) -> None:
    assert close(subtracted(rn.Sampling(**PENALTIES), drawn), expected)
    with_prompt = subtracted(rn.Sampling(**PENALTIES), drawn, [9, 9, 9])
    assert close(with_prompt, expected), "without global_penalty a prompt does not count"


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ([], {}),
        ([5], {3: 1.290031968, 4: 0.798, 5: 0.8}),
        ([5, 6], {3: 1.286071840128, 4: 0.796008, 5: 0.798, 6: 0.8}),
    ],
)
def test_global_penalty(drawn: list[int], expected: dict[int, float]) -> None:
    sampling = rn.Sampling(**PENALTIES, global_penalty=True, exempt_token_ids=[50])
    assert close(subtracted(sampling, drawn, [3, 3, 50, 4]), expected)


def test_penalties_of_a_long_answer() -> None:
    """The closed form of the decay, far beyond where a running scale would underflow."""
    sampling = rn.Sampling(frequency_penalty=1, penalty_decay=0.9)
    drawn = [i % 7 for i in range(5000)]
    occurrence = np.zeros(7)
    for token in drawn:
        occurrence *= 0.9
        occurrence[token] += 1
    found = subtracted(sampling, drawn)
    assert close(found, dict(enumerate(occurrence)))


@pytest.mark.parametrize("decay", [0, 1])
def test_decay_at_its_ends(decay: float) -> None:
    sampling = rn.Sampling(frequency_penalty=1, penalty_decay=decay)
    found = subtracted(sampling, [5, 5, 6])
    assert close(found, {5: 2, 6: 1} if decay else {6: 1})


MUSIC = rn.Sampling(
    frequency_penalty=0.5,
    penalty_decay=0.997,
    logit_bias={0: -4, 127: -1},
    bias_slopes={0: 1 / 500},
    count_weights=dict.fromkeys(range(127), 0.3),
)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ([], {0: -4, 127: -1}),
        ([130], {0: -3.998, 127: -1, 130: -0.5}),
        ([130, 20], {0: -3.996, 127: -1, 130: -0.4985, 20: -0.15}),
        ([130, 20, 130], {0: -3.994, 127: -1, 130: -0.9970045, 20: -0.14955}),
        (
            [130, 20, 130, 127],
            {0: -3.992, 127: -1.5, 130: -0.9940134865, 20: -0.14910135},
        ),
    ],
)
def test_the_law_of_music(drawn: list[int], expected: dict[int, float]) -> None:
    """runner-api 11.3: weights per token, and a bias that grows with the answer."""
    p, _ = probe(np.zeros(200, np.float32), MUSIC, drawn)
    gain = np.log(p / p[199])
    found = {int(t): float(gain[t]) for t in np.flatnonzero(np.abs(gain) > 1e-9)}
    assert close(found, expected)


def test_weights() -> None:
    sampling = rn.Sampling(
        presence_penalty=1, frequency_penalty=1, penalty_decay=1, count_weights={4: 2.5, 5: 0}
    )
    assert close(subtracted(sampling, [4, 5, 6, 4]), {4: 6, 6: 2})
    prompt = dataclasses.replace(sampling, global_penalty=True)
    assert close(subtracted(prompt, [6], [4, 5]), {4: 3.5, 6: 2})


def test_slopes() -> None:
    sampling = rn.Sampling(bias_slopes={3: 0.25, 4: -2})
    assert close(subtracted(sampling, []), {})
    assert close(subtracted(sampling, [9, 9, 9]), {3: -0.75, 4: 6})
    p, _ = probe(np.zeros(4, np.float32), rn.Sampling(bias_slopes={1: 1e308}), [0, 0])
    assert p.tolist() == [0, 1, 0, 0]


def test_bias() -> None:
    p = rn.probabilities(np.zeros(4, np.float32), rn.Sampling(logit_bias={1: math.log(3)}))
    assert np.abs(p - np.array([1, 3, 1, 1]) / 6).max() < 1e-6
    p = rn.probabilities(np.float32([0, 1, 2, 3]), rn.Sampling(logit_bias={0: 100}, top_k=1))
    assert p[0] == 1


def test_forbidden() -> None:
    p = rn.probabilities(np.float32([0, 0, 9]), rn.Sampling(forbidden_token_ids=[2]))
    assert np.abs(p - [0.5, 0.5, 0]).max() < 1e-12
    p = rn.probabilities(
        np.float32([0, 0, 9]), rn.Sampling(forbidden_token_ids=[2], logit_bias={2: 1000})
    )
    assert p[2] == 0


def test_ends_that_come_late() -> None:
    logits = np.array([1, 2, 3, 4], np.float32)
    free = probe(logits, rn.Sampling())[0]
    late = rn.Sampling(min_tokens=2, end_token_ids=[3], stop_token_ids=[0])
    for drawn in range(4):
        p, _ = probe(logits, late, drawn=[1] * drawn)
        expected = free if drawn >= 2 else np.array([0, free[1], free[2], 0]) / free[1:3].sum()
        np.testing.assert_allclose(p, expected, rtol=1e-15)
    never = rn.Sampling(ignore_eos=True, end_token_ids=[3], stop_token_ids=[0])
    expected = np.array([*free[:3], 0]) / free[:3].sum()
    np.testing.assert_allclose(probe(logits, never, drawn=[1] * 9)[0], expected, rtol=1e-15)


def test_no_repeat() -> None:
    sampling = rn.Sampling(no_repeat_token_ids=[2])
    logits = np.float32([0, 0, 9])
    assert probe(logits, sampling, [2])[0][2] == 0
    assert probe(logits, sampling, [2, 1])[0][2] > 0.9
    assert probe(logits, sampling, [], [2])[0][2] == 0, "the last prompt token counts"
    assert probe(logits, sampling, [], [])[0][2] > 0.9


# -- draws


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """By how many standard deviations the statistic exceeds its mean."""
    expected = p * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    if wanted[-1] == 0:
        assert observed[-1] == 0, "drew what has no probability"
        observed, wanted = observed[:-1], wanted[:-1]
    freedom = len(wanted) - 1
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    return (statistic - freedom) / math.sqrt(2 * freedom) if freedom else 0.0


@pytest.mark.parametrize(
    ("options", "seeds", "steps"),
    [
        ({}, 100, 400),
        ({"top_p": 0.8, "temperature": 1.3}, 20_000, 1),
        ({"top_k": 7, "temperature": 0.7}, 1, 3000),
        ({"min_p": 0.1}, 100, 100),
    ],
)
def test_draws_match_the_exact_distribution(options: dict, seeds: int, steps: int) -> None:
    logits = np.random.default_rng(3).normal(scale=2, size=60).astype(np.float32)
    p = rn.probabilities(logits, rn.Sampling(**options))
    counts = np.zeros(60)
    history = [0] * steps
    for seed in range(seeds):
        sampling = rn.Sampling(seed=seed, **options)
        for step in range(steps):
            counts[probe(logits, sampling, history[:step])[1]] += 1
    z = chi_square(counts, p)
    print(f"{options}, {seeds * steps} draws: {z:+.2f} standard deviations")
    assert z < 5


def test_draws_of_neighbouring_seeds_and_steps_are_independent() -> None:
    logits = np.zeros(16, np.float32)
    table = np.array(
        [
            [probe(logits, rn.Sampling(seed=seed), [0] * step)[1] for step in range(60)]
            for seed in range(60)
        ]
    )
    for a, b in [(table[:-1], table[1:]), (table[:, :-1], table[:, 1:])]:
        pairs = np.bincount((a * 16 + b).ravel(), minlength=256)
        assert chi_square(pairs, np.full(256, 1 / 256)) < 5


def test_seeds() -> None:
    logits = np.zeros(1000, np.float32)

    def draw(seed: int | None) -> int:
        return probe(logits, rn.Sampling(seed=seed))[1]

    assert draw(7) == draw(7)
    assert len({draw(s) for s in range(100)}) > 80
    assert len({draw(None) for _ in range(100)}) > 80
    assert draw(-1) == draw(2**64 - 1)


@settings(max_examples=200)
@given(
    logits=arrays(np.float32, st.integers(1, 50), elements=st.floats(-50, 50, width=32)),
    temperature=st.floats(0, 5),
    top_p=st.floats(0, 1),
    top_k=st.integers(-1, 60),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_options(
    logits: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float, seed: int
) -> None:
    """Always a distribution, within the cuts; the draw is a token that it allows."""
    sampling = rn.Sampling(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed
    )
    p, token = probe(logits, sampling)
    assert abs(p.sum() - 1) < 1e-9 and (p >= 0).all() and p[token] > 0
    best = logits == logits.max()
    assert p[best].max() == p.max()
    if top_k > 0:
        assert (p > 0).sum() <= top_k
    if temperature == 0:
        assert p.max() == 1 and best[p.argmax()]


# -- errors


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": 2**40}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": math.inf}, "presence_penalty"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"penalty_decay": 1.1}, "penalty_decay"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"logit_bias": {4: 1}}, "logit_bias"),
        ({"logit_bias": {-1: 1}}, "logit_bias"),
        ({"logit_bias": {1: math.nan}}, "logit_bias"),
        ({"logit_bias": {1: "x"}}, "logit_bias"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"logit_bias": [(1, 1)]}, "logit_bias"),
        ({"count_weights": {4: 1}}, "count_weights"),
        ({"count_weights": {1: -1}}, "count_weights"),
        ({"count_weights": {1: math.inf}}, "count_weights"),
        ({"count_weights": [1]}, "count_weights"),
        ({"bias_slopes": {-1: 1}}, "bias_slopes"),
        ({"bias_slopes": {1: math.nan}}, "bias_slopes"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"forbidden_token_ids": [4]}, "forbidden_token_ids"),
        ({"no_repeat_token_ids": [-1]}, "no_repeat_token_ids"),
        ({"exempt_token_ids": "ab"}, "exempt_token_ids"),
    ],
    ids=str,
)
def test_wrong_options(options: dict, field: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        rn.probabilities(np.zeros(4, np.float32), rn.Sampling(**options))
    assert isinstance(caught.value, rn.Error)


@pytest.mark.parametrize(
    "logits", [[], [[1.0]], [math.nan, 1], [math.inf, 1], [-math.inf, -math.inf]]
)
def test_wrong_logits(logits: list) -> None:
    with pytest.raises(rn.InvalidError, match="logits"):
        rn.probabilities(np.float32(logits))


def test_minus_infinity_is_never_drawn() -> None:
    p = rn.probabilities(np.float32([-math.inf, 1, 1]))
    assert p.tolist() == [0, 0.5, 0.5]


def test_everything_forbidden_is_an_error() -> None:
    with pytest.raises(rn.Error):
        rn.probabilities(np.zeros(2, np.float32), rn.Sampling(forbidden_token_ids=[0, 1]))


def test_sampling_is_a_value() -> None:
    assert rn.Sampling(seed=1) == rn.Sampling(seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rn.Sampling().seed = 3
    changed = dataclasses.replace(rn.Sampling(top_p=0.5), seed=4)
    assert (changed.top_p, changed.seed) == (0.5, 4)
    defaults = rn.Sampling()
    assert (defaults.temperature, defaults.top_p, defaults.top_k, defaults.min_p) == (1, 1, 0, 0)
    assert (defaults.presence_penalty, defaults.frequency_penalty) == (0, 0)
    assert (defaults.penalty_decay, defaults.global_penalty, defaults.seed) == (0.996, False, None)
    assert (defaults.logprobs, list(defaults.stop), list(defaults.stop_token_ids)) == (None, [], [])
    assert defaults.logit_bias == defaults.count_weights == defaults.bias_slopes == {}


def test_logits_that_are_no_numbers() -> None:
    for wrong in ("x", None, [[1], [1, 2]], {"a": 1}):
        with pytest.raises(rn.InvalidError, match="logits"):
            rn.probabilities(wrong)
