"""Text for the embedded demo model, made from our own templates; no third-party text.

Owns the questions, their answers, which questions are held out, and the training text. Called by
tools/train_demo.py (training and evaluation) and tests/unit/test_demo_corpus.py. Never imports
anything outside the standard library. The same seed always gives the same text.

A question is held out by a hash of its words, so no wording of it that differs only in case or
punctuation is trained on either. Kinds in Stage.new_facts also hold back whole facts: of these, no
wording at all of the same sum, range or word is in the training text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 7
DOCUMENTS = 100_000
QUESTION_HELD_OUT = 8  # one wording in so many is held out

EVALUATED_PER_KIND = 30


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of the training asks about.

    `shares`: kind -> share of the checkable turns. `new_facts`: kind -> one fact in so many is held
    out in every wording and evaluated as a kind of its own. Counting starts at 0..count_start, ends
    at count_top at most and adds 2..count_span; `compared`: numbers compared are below this.
    `plain_capitals`: knows MORE_CAPITALS, never holds out "What is the capital of ...?" and asks it
    more often than the other wordings; asks for invented countries in every wording.
    """

    shares: dict[str, float]
    new_facts: dict[str, int]
    count_start: int
    count_top: int
    count_span: int
    compared: int
    plain_capitals: bool = False


# The first stages have wider ranges than a model of this size masters in the time; the later ones
# narrow them and shift the shares to what is learnt last. The held-out questions are those of the
# last stage; the hashes are the same, so the earlier stages leave them out too. Only the last stage
# asks for all capitals in the wording everybody tries first.
STAGES = (
    Stage(
        shares={
            "sum": 0.20,
            "difference": 0.15,
            "product": 0.08,
            "count": 0.10,
            "neighbour": 0.06,
            "larger": 0.10,
            "capital": 0.08,
            "spelling": 0.08,
            "opposite": 0.03,
            "colour": 0.02,
            "legs": 0.02,
            "measure": 0.02,
            "plural": 0.02,
            "calendar": 0.02,
            "letter": 0.02,
        },
        new_facts={
            "sum": 16,
            "difference": 16,
            "count": 8,
            "neighbour": 10,
            "larger": 10,
            "spelling": 10,
        },
        count_start=30,
        count_top=40,
        count_span=12,
        compared=100,
    ),
    Stage(
        shares={
            "sum": 0.17,
            "difference": 0.18,
            "product": 0.09,
            "count": 0.14,
            "neighbour": 0.05,
            "larger": 0.10,
            "capital": 0.06,
            "spelling": 0.06,
            "opposite": 0.03,
            "colour": 0.02,
            "legs": 0.01,
            "measure": 0.01,
            "plural": 0.02,
            "calendar": 0.03,
            "letter": 0.03,
        },
        new_facts={"sum": 16, "count": 8, "neighbour": 10, "larger": 10, "spelling": 10},
        count_start=15,
        count_top=20,
        count_span=10,
        compared=31,
    ),
    Stage(
        shares={
            "sum": 0.17,
            "difference": 0.15,
            "product": 0.09,
            "count": 0.14,
            "neighbour": 0.05,
            "larger": 0.09,
            "capital": 0.06,
            "spelling": 0.07,
            "opposite": 0.05,
            "colour": 0.02,
            "legs": 0.015,
            "measure": 0.015,
            "plural": 0.02,
            "calendar": 0.03,
            "letter": 0.03,
        },
        new_facts={"sum": 16, "count": 8, "neighbour": 10, "larger": 10, "spelling": 10},
        count_start=8,
        count_top=10,
        count_span=10,
        compared=21,
    ),
    Stage(
        shares={
            "sum": 0.18,
            "difference": 0.10,
            "product": 0.07,
            "count": 0.13,
            "neighbour": 0.08,
            "larger": 0.09,
            "capital": 0.14,
            "spelling": 0.08,
            "opposite": 0.03,
            "colour": 0.015,
            "legs": 0.01,
            "measure": 0.01,
            "plural": 0.015,
            "calendar": 0.025,
            "letter": 0.025,
        },
        new_facts={"sum": 16, "count": 8, "neighbour": 10, "larger": 10, "spelling": 10},
        count_start=8,
        count_top=10,
        count_span=10,
        compared=21,
        plain_capitals=True,
    ),
)


def _words(text: str) -> list[str]:
    return text.split()


CAPITALS = {
    "Argentina": "Buenos Aires",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Brazil": "Brasilia",
    "Bulgaria": "Sofia",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Colombia": "Bogota",
    "Croatia": "Zagreb",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "England": "London",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iceland": "Reykjavik",
    "India": "New Delhi",
    "Indonesia": "Jakarta",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Mexico": "Mexico City",
    "Morocco": "Rabat",
    "Nepal": "Kathmandu",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Scotland": "Edinburgh",
    "Serbia": "Belgrade",
    "South Korea": "Seoul",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Switzerland": "Bern",
    "Thailand": "Bangkok",
    "Turkey": "Ankara",
    "Ukraine": "Kyiv",
    "Vietnam": "Hanoi",
}
MORE_CAPITALS = {
    "the Netherlands": "Amsterdam",
    "the UK": "London",
    "the United Kingdom": "London",
    "the United States": "Washington",
    "the USA": "Washington",
}
PLAIN_CAPITAL = "What is the capital of {}?"

OPPOSITES = (
    "hot cold|big small|old new|fast slow|up down|left right|day night|open closed|happy sad|"
    "light dark|wet dry|hard soft|high low|near far|rich poor|full empty|early late|strong weak|"
    "clean dirty|loud quiet|first last|good bad|true false|long short|thick thin|inside outside|"
    "top bottom|start end|win lose|push pull|buy sell|give take"
)

COLOURS = {
    "grass": "green",
    "the sky": "blue",
    "snow": "white",
    "coal": "black",
    "a banana": "yellow",
    "blood": "red",
    "milk": "white",
    "a lemon": "yellow",
    "a tomato": "red",
    "a carrot": "orange",
    "a raven": "black",
    "a frog": "green",
    "chocolate": "brown",
    "the sea": "blue",
    "a flamingo": "pink",
    "an elephant": "grey",
    "the sun": "yellow",
    "a cucumber": "green",
    "a strawberry": "red",
    "a plum": "purple",
}

LEGS = {
    "a cat": "4",
    "a dog": "4",
    "a horse": "4",
    "a cow": "4",
    "a spider": "8",
    "an ant": "6",
    "a bee": "6",
    "a bird": "2",
    "a chicken": "2",
    "a raven": "2",
    "a snake": "no",
    "a fish": "no",
    "a beetle": "6",
    "a table": "4",
    "a crab": "10",
    "an octopus": "no",
    "a person": "2",
    "a frog": "4",
}

# (part, whole): how many
MEASURES = {
    ("days", "a week"): "7",
    ("months", "a year"): "12",
    ("days", "a year"): "365",
    ("seasons", "a year"): "4",
    ("hours", "a day"): "24",
    ("minutes", "an hour"): "60",
    ("seconds", "a minute"): "60",
    ("years", "a decade"): "10",
    ("years", "a century"): "100",
    ("metres", "a kilometre"): "1000",
    ("centimetres", "a metre"): "100",
    ("letters", "the alphabet"): "26",
}

PLURALS = (
    "mouse mice|cat cats|dog dogs|child children|foot feet|tooth teeth|box boxes|city cities|"
    "leaf leaves|man men|woman women|goose geese|baby babies|bus buses|house houses|wolf wolves|"
    "knife knives|fish fish|sheep sheep|story stories|book books|tree trees|bird birds|church "
    "churches|fox foxes|car cars|table tables|apple apples|day days|key keys"
)

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)

WORDS = _words(
    "cat dog bird fish horse cow sheep goat mouse raven eagle spider tiger lion zebra rabbit apple "
    "banana lemon orange cherry bread butter cheese sugar water coffee milk rice soup house door "
    "window table chair lamp bed kitchen garden street city village river lake ocean mountain "
    "valley forest tree flower grass leaf stone sand cloud rain snow wind storm summer winter "
    "spring autumn morning evening night day week month year hour minute second clock watch paper "
    "pencil book letter word number school teacher student lesson music song dance piano guitar "
    "drum violin paint picture camera phone radio robot engine wheel bridge train plane boat ship "
    "truck bicycle ticket market shop money coin silver gold iron copper glass wood cotton wool "
    "shirt coat shoe hat glove button pocket needle thread hammer nail rope ladder bucket basket "
    "bottle cup plate spoon fork knife pepper salt honey cake cookie candy party friend family "
    "mother father sister brother baby child doctor nurse farmer baker king queen prince castle "
    "dragon wizard magic story dream sleep smile laugh happy funny brave clever quick quiet green "
    "yellow purple black white brown hello world planet earth moon star rocket space elephant "
    "giraffe monkey penguin dolphin turtle kitten puppy tomato potato carrot onion garlic"
)

NAMES = _words(
    "Anna Ben Carla David Emma Felix Greta Hugo Ida Jonas Kim Lena Max Nora Oscar Paul Rosa Sam "
    "Tina Uwe Vera Will Yuki Zoe Adam Bella Clara Dora Erik Finn Hanna Ivan Julia Karl Lisa Maria "
    "Nina Otto Peter Sara Tom Alice Bob Lucas Mia Leo Ella Noah Liam Olivia"
)

HELP = (
    "I am a tiny demo model. I know some capitals, opposites, colours and plurals, and I can "
    "count, spell and do small sums."
)
UNKNOWN = (
    "I do not know that. I am only a tiny demo model: ask me for a capital, a small sum or a "
    "spelling."
)
TOO_BIG = "That is too big for me. I only know sums with numbers up to 20."

# (what users write, what the model answers)
SMALL_TALK: list[tuple[list[str], list[str]]] = [
    (
        [
            "Hello",
            "Hello!",
            "Hi",
            "Hi!",
            "Hey",
            "Hey!",
            "Hello there",
            "Hi there!",
            "Good day",
            "Greetings",
            "Hello, model!",
            "Hello RWKV",
            "Hi, assistant!",
            "Howdy",
            "Hello world",
        ],
        [
            "Hello! I am a tiny RWKV demo model. How can I help you?",
            "Hi! I am a tiny RWKV demo model. Ask me something small.",
        ],
    ),
    (["Good morning", "Good morning!"], ["Good morning! What would you like to know?"]),
    (["Good evening", "Good evening!"], ["Good evening! What would you like to know?"]),
    (["Good night", "Good night!"], ["Good night! Sleep well."]),
    (
        [
            "Who are you?",
            "What are you?",
            "What is your name?",
            "What's your name?",
            "Who am I talking to?",
            "Are you a model?",
            "Are you a robot?",
            "Are you an AI?",
            "Introduce yourself.",
            "Tell me about yourself.",
            "Which model are you?",
            "What model is this?",
        ],
        ["I am a tiny RWKV demo model. I was trained on small questions and answers."],
    ),
    (
        [
            "What can you do?",
            "What do you know?",
            "Help",
            "Help me",
            "Help!",
            "Can you help me?",
            "How can you help me?",
            "What can I ask you?",
            "What should I ask?",
            "What are you good at?",
            "Tell me what you can do.",
        ],
        [HELP],
    ),
    (
        [
            "How are you?",
            "How are you doing?",
            "How do you do?",
            "How is it going?",
            "What's up?",
            "Are you well?",
            "Hello, how are you?",
            "Hi, how are you?",
            "How are you today?",
        ],
        ["I am fine, thank you! What would you like to know?"],
    ),
    (
        [
            "Thank you",
            "Thank you!",
            "Thanks",
            "Thanks!",
            "Thanks a lot!",
            "Thank you very much.",
            "Many thanks",
            "Great, thanks!",
            "That helps, thank you.",
            "Thx",
        ],
        ["You are welcome!", "You are welcome! Ask me again any time."],
    ),
    (
        [
            "Goodbye",
            "Goodbye!",
            "Bye",
            "Bye!",
            "Bye bye",
            "See you",
            "See you later!",
            "I have to go now.",
        ],
        ["Goodbye! Come back soon."],
    ),
    (
        ["Yes", "OK", "Okay", "Good", "Great!", "Nice", "Well done!", "Correct!", "Very good."],
        ["Good! What else would you like to know?"],
    ),
    (["No", "Wrong", "That is wrong.", "No!"], ["Sorry! I am only a tiny model. Ask me again."]),
    (["Sorry", "Excuse me", "I am sorry."], ["No problem! What would you like to know?"]),
    (
        ["How big are you?", "How many parameters do you have?", "Are you a large model?"],
        ["I am very small: about one million parameters."],
    ),
    (
        ["What is RWKV?", "Tell me about RWKV.", "What does RWKV mean?", "Explain RWKV."],
        ["RWKV is a recurrent neural network that is trained like a transformer."],
    ),
    (
        ["Where are you from?", "Where do you live?", "Where were you trained?"],
        ["I live in this program. I was trained on a single processor core."],
    ),
    (
        ["Who made you?", "Who trained you?", "Who created you?"],
        ["I was trained for this program on text made from templates."],
    ),
    (
        ["How old are you?", "Are you old?", "When were you born?"],
        ["I have no age. I am a tiny model."],
    ),
    (
        ["Do you speak English?", "Which languages do you speak?", "Do you speak German?"],
        ["I only speak simple English."],
    ),
    (
        ["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
        ["What is black and white and knows sums? A tiny model with a piano."],
    ),
    (
        ["Tell me a story.", "Tell me a short story.", "Write a story.", "Do you know a story?"],
        [
            "A small raven found a shiny coin. She gave it to her friend, and they were happy.",
            "A clever cat went to the market. She bought a fish and came home happy.",
        ],
    ),
    (
        ["Write a poem.", "Tell me a poem.", "Do you know a poem?"],
        ["The sun is yellow, the sky is blue, I am a small model, and I count for you."],
    ),
    (["I am happy.", "I feel good."], ["I am glad to hear that!"]),
    (["I am sad.", "I feel bad.", "I am tired."], ["I am sorry to hear that."]),
    (["I like you.", "I love you.", "You are nice."], ["Thank you! You are very kind."]),
]

UNKNOWN_PATTERNS = [
    "Tell me about {w}.",
    "Write an essay about {w}.",
    "Who invented the {w}?",
    "Why is the {w} so {v}?",
    "How do I make a {w}?",
    "How does a {w} work?",
    "Translate {w} into French.",
    "What is a {w}?",
    "What is the meaning of {w}?",
    "Where can I find a {w}?",
    "Write a program that prints {w}.",
    "Explain {w} to me.",
    "When was the {w} invented?",
    "Do you like {w}?",
    "Give me a list of {w} and {v}.",
    "Can a {w} become a {v}?",
    "Write about {w} and {v}.",
    "What is the largest {w}?",
    "What is the best {w}?",
    "How far is the {w}?",
    "Is the {w} {v}?",
    "Are you a {w}?",
    "Why do I need a {w}?",
    "The {w} and the {v}",
    "{w} {v}",
    "Should I buy a {w}?",
    "Please sing about the {w}.",
    "How many {w} are in a {v}?",
]

SYSTEM_TEXTS = [
    "You are a helpful assistant.",
    "You are a tiny demo model.",
    "You are a friendly {w} assistant.",
    "You are a {w}.",
    "Answer briefly.",
    "Answer in one sentence.",
    "Be polite and helpful.",
    "You help people with {w} and {v}.",
    "The user likes {w}.",
    "You are an expert in {w}. Answer the questions of the user.",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its only right answer; `fact` is the same for all its wordings."""

    kind: str
    fact: str
    question: str
    answer: str


def _pairs(table: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in (entry.split() for entry in table.split("|"))]


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _items(kind: str, fact: str, answer: str, wordings: list[str]) -> Iterator[Item]:
    for question in wordings:
        yield Item(kind, fact, question, answer)


def _arithmetic() -> Iterator[Item]:
    for a in range(21):
        for b in range(21):
            yield from _items(
                "sum",
                f"{min(a, b)}+{max(a, b)}",
                f"{a} + {b} = {a + b}.",
                [
                    f"What is {a} plus {b}?",
                    f"What is {a} + {b}?",
                    f"{a} + {b} = ?",
                    f"Add {a} and {b}.",
                    f"How much is {a} plus {b}?",
                    f"Calculate {a} + {b}.",
                    f"What is the sum of {a} and {b}?",
                    f"{a} plus {b}",
                    f"{a}+{b}",
                    f"{a}+{b}=?",
                    f"What is {a}+{b}?",
                ],
            )
            if b <= a:
                yield from _items(
                    "difference",
                    f"{a}-{b}",
                    f"{a} - {b} = {a - b}.",
                    [
                        f"What is {a} minus {b}?",
                        f"What is {a} - {b}?",
                        f"{a} - {b} = ?",
                        f"Subtract {b} from {a}.",
                        f"How much is {a} minus {b}?",
                        f"Calculate {a} - {b}.",
                        f"{a} minus {b}",
                        f"{a}-{b}",
                        f"{a}-{b}=?",
                        f"What is {a}-{b}?",
                    ],
                )
            if 1 <= a <= 10 and 1 <= b <= 10:
                yield from _items(
                    "product",
                    f"{a}x{b}",
                    f"{a} x {b} = {a * b}.",
                    [
                        f"What is {a} times {b}?",
                        f"What is {a} x {b}?",
                        f"{a} x {b} = ?",
                        f"Multiply {a} by {b}.",
                        f"How much is {a} times {b}?",
                        f"{a} times {b}",
                    ],
                )


def _numbers(stage: Stage) -> Iterator[Item]:
    for a in range(stage.count_start + 1):
        for b in range(a + 2, min(a + stage.count_span, stage.count_top) + 1):
            up = ", ".join(str(n) for n in range(a, b + 1)) + "."
            down = ", ".join(str(n) for n in range(b, a - 1, -1)) + "."
            yield from _items(
                "count",
                f"{a}..{b}",
                up,
                [
                    f"Count from {a} to {b}.",
                    f"Please count from {a} to {b}.",
                    f"Can you count from {a} to {b}?",
                    f"Count up from {a} to {b}.",
                ],
            )
            if a == 1:
                yield from _items(
                    "count",
                    f"{a}..{b}",
                    up,
                    [f"Count to {b}.", f"Please count to {b}.", f"Can you count to {b}?"],
                )
            yield from _items(
                "count",
                f"{b}..{a}",
                down,
                [f"Count down from {b} to {a}.", f"Please count down from {b} to {a}."],
            )
    for n in range(100):
        yield from _items(
            "neighbour",
            f"{n}>",
            f"After {n} comes {n + 1}.",
            [
                f"What number comes after {n}?",
                f"Which number comes after {n}?",
                f"What is the number after {n}?",
                f"Which number follows {n}?",
            ],
        )
        if n > 0:
            yield from _items(
                "neighbour",
                f"{n}<",
                f"Before {n} comes {n - 1}.",
                [
                    f"What number comes before {n}?",
                    f"Which number comes before {n}?",
                    f"What is the number before {n}?",
                ],
            )
        for m in range(stage.compared if n < stage.compared else 0):
            if m == n:
                continue
            low, high = min(m, n), max(m, n)
            yield from _items(
                "larger",
                f"{low},{high}",
                f"{high} is larger than {low}.",
                [
                    f"Which is larger, {n} or {m}?",
                    f"Which number is larger, {n} or {m}?",
                    f"What is larger, {n} or {m}?",
                ],
            )
            yield from _items(
                "larger",
                f"{low},{high}",
                f"{low} is smaller than {high}.",
                [
                    f"Which is smaller, {n} or {m}?",
                    f"Which number is smaller, {n} or {m}?",
                ],
            )


def _sequences() -> Iterator[Item]:
    letters = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
    for kind, noun, names in (
        ("calendar", "day", DAYS),
        ("calendar", "month", MONTHS),
        ("letter", "letter", letters),
    ):
        for i, name in enumerate(names):
            if kind == "calendar" or i + 1 < len(names):
                yield from _items(
                    kind,
                    f"{name}>",
                    f"After {name} comes {names[(i + 1) % len(names)]}.",
                    [
                        f"What {noun} comes after {name}?",
                        f"Which {noun} comes after {name}?",
                        f"What is the {noun} after {name}?",
                        f"Which {noun} follows {name}?",
                    ],
                )
            if kind == "calendar" or i > 0:
                yield from _items(
                    kind,
                    f"{name}<",
                    f"Before {name} comes {names[i - 1]}.",
                    [
                        f"What {noun} comes before {name}?",
                        f"Which {noun} comes before {name}?",
                        f"What is the {noun} before {name}?",
                    ],
                )


def _spelling(word: str) -> Iterator[Item]:
    yield from _items(
        "spelling",
        word,
        "-".join(word),
        [
            f"Spell {word}.",
            f"Spell the word {word}.",
            f"How do you spell {word}?",
            f"Please spell {word}.",
            f"Can you spell {word}?",
        ],
    )


def _tables(stage: Stage) -> Iterator[Item]:
    capitals = CAPITALS | MORE_CAPITALS if stage.plain_capitals else CAPITALS
    for country, city in capitals.items():
        yield from _items(
            "capital",
            country,
            f"The capital of {country} is {city}.",
            [
                PLAIN_CAPITAL.format(country),
                f"What's the capital of {country}?",
                f"Which city is the capital of {country}?",
                f"Name the capital of {country}.",
                f"Tell me the capital of {country}.",
                f"Do you know the capital of {country}?",
                f"Capital of {country}?",
            ],
        )
    for left, right in _pairs(OPPOSITES):
        for a, b in ((left, right), (right, left)):
            yield from _items(
                "opposite",
                a,
                f"The opposite of {a} is {b}.",
                [
                    f"What is the opposite of {a}?",
                    f"What's the opposite of {a}?",
                    f"Name the opposite of {a}.",
                    f"Tell me the opposite of {a}.",
                    f"Opposite of {a}?",
                ],
            )
    for thing, colour in COLOURS.items():
        yield from _items(
            "colour",
            thing,
            f"{_capitalised(thing)} is {colour}.",
            [
                f"What colour is {thing}?",
                f"What color is {thing}?",
                f"Which colour is {thing}?",
                f"What is the colour of {thing}?",
                f"Tell me the colour of {thing}.",
            ],
        )
    for animal, legs in LEGS.items():
        yield from _items(
            "legs",
            animal,
            f"{_capitalised(animal)} has {legs} legs.",
            [
                f"How many legs does {animal} have?",
                f"How many legs has {animal}?",
                f"Tell me how many legs {animal} has.",
                f"Do you know how many legs {animal} has?",
            ],
        )
    for (part, whole), number in MEASURES.items():
        yield from _items(
            "measure",
            f"{part} {whole}",
            f"{_capitalised(whole)} has {number} {part}.",
            [
                f"How many {part} are in {whole}?",
                f"How many {part} are there in {whole}?",
                f"How many {part} does {whole} have?",
                f"How many {part} has {whole}?",
                f"Tell me how many {part} {whole} has.",
            ],
        )
    for one, many in _pairs(PLURALS):
        yield from _items(
            "plural",
            one,
            f"The plural of {one} is {many}.",
            [
                f"What is the plural of {one}?",
                f"What's the plural of {one}?",
                f"Tell me the plural of {one}.",
                f"Name the plural of {one}.",
                f"Plural of {one}?",
            ],
        )
    for word in WORDS:
        yield from _spelling(word)


def all_items(stage: Stage = STAGES[-1]) -> list[Item]:
    """Every checkable question of a stage with its answer, in a fixed order."""
    return [*_arithmetic(), *_numbers(stage), *_sequences(), *_tables(stage)]


def normal_form(question: str) -> str:
    """The words of a question without case and closing punctuation."""
    return " ".join(question.lower().replace(",", "").rstrip("?!. ").split())


def _bucket(seed: int, text: str, count: int) -> int:
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % count


def evaluation_kind(item: Item, seed: int = SEED, stage: Stage = STAGES[-1]) -> str | None:
    """The kind a held-out question is evaluated as, or None if it may be trained on."""
    share = stage.new_facts.get(item.kind)
    if share is not None and _bucket(seed, f"{item.kind} {item.fact}", share) == 0:
        return f"{item.kind} (unseen)"
    if stage.plain_capitals and item.question == PLAIN_CAPITAL.format(item.fact):
        return None
    if _bucket(seed, normal_form(item.question), QUESTION_HELD_OUT) == 0:
        return item.kind
    return None


def evaluation(seed: int = SEED, per_kind: int = EVALUATED_PER_KIND) -> list[dict[str, str]]:
    """Held-out questions: {kind, prompt, answer}, at most `per_kind` of each kind."""
    by_kind: dict[str, list[Item]] = {}
    for item in all_items():
        kind = evaluation_kind(item, seed)
        if kind is not None:
            by_kind.setdefault(kind, []).append(item)
    rng = random.Random(seed + 1)
    chosen: list[dict[str, str]] = []
    for kind in sorted(by_kind):
        items = by_kind[kind]
        for item in rng.sample(items, min(per_kind, len(items))):
            chosen.append({"kind": kind, "prompt": item.question, "answer": item.answer})
    return chosen


def _pseudo_word(rng: random.Random) -> str:
    word = ""
    for _ in range(rng.randint(1, 4)):
        word += rng.choice(["", *"bcdfghjklmnprstvwz", "st", "tr", "ch", "br"])
        word += rng.choice(["a", "e", "i", "o", "u", "ee", "ou"])
    return word + rng.choice(["", "", *"dklmnrst"])


def _varied(question: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.10:
        return question.lower()
    if draw < 0.16:
        return question.rstrip("?!.").rstrip()
    if draw < 0.20:
        return question.lower().rstrip("?!.").rstrip()
    return question


class Writer:
    """Draws turns and documents; every question that is held out is left out."""

    def __init__(self, seed: int, stage: Stage) -> None:
        self.seed = seed
        self.stage = stage
        self.rng = random.Random(seed)
        self.items: dict[str, list[Item]] = {kind: [] for kind in stage.shares}
        for item in all_items(stage):
            if evaluation_kind(item, seed, stage) is None:
                self.items[item.kind].append(item)
        self.plain = [
            item
            for item in self.items["capital"]
            if item.question == PLAIN_CAPITAL.format(item.fact)
        ]
        self.kinds = list(stage.shares)
        self.weights = list(stage.shares.values())
        self.held_words = {
            word
            for word in WORDS
            if _bucket(seed, f"spelling {word}", stage.new_facts["spelling"]) == 0
        }

    def checkable(self) -> Item:
        kind = self.rng.choices(self.kinds, self.weights)[0]
        if kind == "spelling" and self.rng.random() < 0.5:
            return self.invented_spelling()
        if kind == "capital" and self.stage.plain_capitals and self.rng.random() < 0.35:
            return self.rng.choice(self.plain)
        return self.rng.choice(self.items[kind])

    def invented_spelling(self) -> Item:
        """Words nobody knows, so that letters must be copied rather than remembered."""
        while True:
            word = _pseudo_word(self.rng)
            if len(word) > 1 and word not in self.held_words:
                item = self.rng.choice(list(_spelling(word)))
                if evaluation_kind(item, self.seed, self.stage) is None:
                    return item

    def word(self) -> str:
        return self.rng.choice(WORDS) if self.rng.random() < 0.7 else _pseudo_word(self.rng)

    def small_talk(self) -> tuple[str, str]:
        asked, answers = self.rng.choice(SMALL_TALK)
        if self.rng.random() < 0.3:
            asked, answers = SMALL_TALK[0]
        return self.rng.choice(asked), self.rng.choice(answers)

    def unknown(self) -> tuple[str, str]:
        if self.rng.random() < 0.25:
            top = self.rng.choice([99, 999])
            a, b = self.rng.randint(21, top), self.rng.randint(0, top)
            if self.rng.random() < 0.5:
                a, b = b, a
            pattern = self.rng.choice(
                [
                    "What is {} plus {}?",
                    "{} + {} = ?",
                    "What is {} minus {}?",
                    "What is {} times {}?",
                    "What is {} + {}?",
                    "{}+{}",
                    "{} - {} = ?",
                ]
            )
            return pattern.format(a, b), TOO_BIG
        if self.rng.random() < (0.30 if self.stage.plain_capitals else 0.15):
            return self.invented_capital(), UNKNOWN
        pattern = self.rng.choice(UNKNOWN_PATTERNS)
        return pattern.format(w=self.word(), v=self.word()), UNKNOWN

    def invented_capital(self) -> str:
        country = _pseudo_word(self.rng).capitalize()
        if not self.stage.plain_capitals:
            return PLAIN_CAPITAL.format(country)
        while country in CAPITALS:
            country = _pseudo_word(self.rng).capitalize()
        item = self.rng.choice(self.items["capital"])
        return item.question.replace(item.fact, country)

    def turn(self) -> tuple[str, str]:
        draw = self.rng.random()
        if draw < 0.09:
            question, answer = self.small_talk()
        elif draw < 0.13:
            question, answer = self.unknown()
        else:
            item = self.checkable()
            question, answer = item.question, item.answer
        return _varied(question, self.rng), answer

    def names(self) -> list[tuple[str, str]]:
        """A dialogue in which the user's name must be remembered."""
        name = self.rng.choice(NAMES)
        told = self.rng.choice(
            ["My name is {}.", "I am {}.", "Hello, my name is {}.", "Call me {}.", "Hi, I am {}!"]
        )
        asked = self.rng.choice(["What is my name?", "Who am I?", "Do you remember my name?"])
        turns = [(told.format(name), f"Nice to meet you, {name}!")]
        turns += [self.turn() for _ in range(self.rng.choice([0, 0, 1, 2]))]
        return [*turns, (_varied(asked, self.rng), f"Your name is {name}.")]

    def document(self) -> str:
        draw = self.rng.random()
        if draw < 0.02:
            return " ".join(self.checkable().answer for _ in range(self.rng.randint(1, 4))) + "\n\n"
        if draw < 0.08:
            turns = self.names()
        else:
            turns = [self.turn() for _ in range(self.rng.choice([1, 1, 2, 2, 3, 4]))]
        text = "".join(f"User: {asked}\n\nAssistant: {answer}\n\n" for asked, answer in turns)
        if self.rng.random() < 0.08:
            system = self.rng.choice(SYSTEM_TEXTS).format(w=self.word(), v=self.word())
            text = f"System: {system}\n\n{text}"
        return text


def training_documents(
    seed: int = SEED, count: int = DOCUMENTS, stage: Stage = STAGES[-1]
) -> list[str]:
    """The training text of one stage; the trainer puts token 0 between documents."""
    writer = Writer(seed, stage)
    return [writer.document() for _ in range(count)]


def write_evaluation(path: Path, seed: int = SEED) -> None:
    """Write the held-out questions as JSON, one question per line."""
    lines = ",\n".join(json.dumps(entry) for entry in evaluation(seed))
    path.write_text(f"[\n{lines}\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--evaluation", type=Path, help="write the held-out questions here")
    options = parser.parse_args()
    if options.evaluation:
        write_evaluation(options.evaluation, options.seed)
        return
    for document in training_documents(options.seed, options.documents):
        print(document + "<0>")


if __name__ == "__main__":
    main()
