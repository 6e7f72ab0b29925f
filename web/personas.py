"""What a model family is called, how it samples by default, and which of its tokens are special.

Owns the names of the roles, RWKV Runner's default sampling, and the ids behind two rules of its
World models: marks that cannot follow themselves, and characters that `global_penalty` leaves out.
Called by `web/runtime.py` (which persona a model has) and `web/generation.py`. Never renders a
prompt: that is `web/prompts/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from web.schemas.sampling import SamplingFields

# The full-width comma, colon, question and exclamation mark: none can follow itself.
_WORLD_NO_REPEAT = (19137, 19151, 19156, 19126)

# Punctuation, digits, blank and new line, ASCII and full width: frequent by nature, so a prompt
# full of them says nothing about what to avoid. Of 33..65 only 40 (an apostrophe) is not exempt.
_WORLD_EXEMPT = tuple(
    sorted(
        {
            11,
            *(i for i in range(33, 66) if i != 40),
            *range(92, 98),
            *range(124, 128),
            9822,
            9823,
            10080,
            19126,
            19137,
            19151,
            19152,
            19156,
        }
    )
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling where a request says nothing: RWKV Runner's values for text models."""

    max_tokens: int = 500
    temperature: float = 1.0
    top_p: float = 0.3
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 1.0
    penalty_decay: float = 0.996
    global_penalty: bool = False


@dataclass(frozen=True, slots=True)
class Persona:
    """One model family."""

    family: str
    user: str
    assistant: str
    system: str
    tool: str
    defaults: Defaults
    no_repeat: tuple[int, ...] = ()
    exempt: tuple[int, ...] = ()


WORLD = Persona(
    family="world",
    user="User",
    assistant="Assistant",
    system="System",
    tool="Observation",
    defaults=Defaults(),
    no_repeat=_WORLD_NO_REPEAT,
    exempt=_WORLD_EXEMPT,
)

# World's words over a vocabulary of bytes (the demo model), with the same ids for single bytes.
# Letters come back all the time, so a penalty on what has been drawn already would forbid
# spelling: penalties are off by default.
WORLD_BYTES = replace(
    WORLD,
    defaults=Defaults(frequency_penalty=0.0),
    no_repeat=(),
    exempt=tuple(i for i in _WORLD_EXEMPT if i <= 256),
)

# Another vocabulary: World's words, but none of its ids.
_WORLD_WORDS = replace(WORLD, no_repeat=(), exempt=())


def persona_for(tokenizer: str) -> Persona:
    """The persona of a model, by the name of its tokenizer."""
    return {"world": WORLD, "world-bytes": WORLD_BYTES}.get(tokenizer, _WORLD_WORDS)


def effective(asked: SamplingFields, defaults: Defaults) -> Defaults:
    """The request's values over the defaults. A temperature below 0.1 acts as 0.1, as in RWKV
    Runner, except 0, which is greedy."""

    def pick(name: str) -> float:
        value = getattr(asked, name)
        return getattr(defaults, name) if value is None else value

    values = {name: pick(name) for name in Defaults.__dataclass_fields__}
    if 0 < values["temperature"] < 0.1:
        values["temperature"] = 0.1
    return Defaults(**values)
