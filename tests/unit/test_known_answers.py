"""Answers keep their ids from turn to turn, and prompts print their text whatever is kept."""

from __future__ import annotations

from typing import Any

import pytest

import rwkv_native as rn
from web.chat.messages import Message
from web.chat.prompts.formats import ChatPrompt, answer_text, chat_prompt
from web.engine.families import G1, WORLD, Persona
from web.engine.known_answers import KnownAnswers
from web.schemas.chat import chat_request
from web.schemas.fields import Fields

TOKENIZER = rn.Tokenizer.named("world")
USER = {"role": "user", "content": "a"}


def ids_of(*texts: str) -> list[int]:
    """One token each."""
    ids = [id for text in texts for id in TOKENIZER.encode(text)]
    assert len(ids) == len(texts)
    return ids


def talk_of(*messages: dict[str, Any], persona: Persona = WORLD, **options: Any) -> ChatPrompt:
    request = chat_request(Fields({"messages": list(messages), **options}))
    return chat_prompt(persona, request.conversation)


def said(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def shown(known: KnownAnswers, talk: ChatPrompt) -> list[str]:
    """The tokens of a prompt, which print its text."""
    fed = known.encode(talk)
    assert TOKENIZER.decode_bytes(fed.ids) == talk.text.encode()
    return [TOKENIZER.decode([id]) for id in fed.ids]


def keep(
    known: KnownAnswers, talk: ChatPrompt, text: str, drawn: list[int], begun: str = ""
) -> str:
    """What the server does at the end of an answer; returns what the client has got."""
    content = begun + (text.rstrip() if begun else text.strip())
    kept = answer_text(WORLD, talk.names, Message("assistant", content))
    assert kept is not None
    known.keep(known.encode(talk), kept, drawn)
    return content


def test_clients_know_their_own_answers_only() -> None:
    """Others' would tell what they have been answered, and may be drawn to harm."""
    known = KnownAnswers(TOKENIZER)
    talk = talk_of(USER)
    known.keep(known.encode(talk, client=1), " Hi", ids_of(" ", "H", "i", "\n\n"))
    later = talk_of(USER, said("Hi"), USER)
    own, others = (known.encode(later, client).ids.tolist() for client in (1, 2))
    assert len(own) > len(others)
    assert others == KnownAnswers(TOKENIZER).encode(later).ids.tolist()


@pytest.mark.parametrize(
    ("drawn", "kept"),
    [
        ((" x", "\u3002", "\n\n"), (" x", "\u3002", "\n\n")),
        ((" x", "\u3002"), (" x", "\u3002")),
        ((" x", "\u3002\n", "\n"), (" x", "\u3002\n", "\n")),
        ((" x", "\u3002\n", "\n", "User", ":"), (" x", "\u3002\n", "\n")),
        ((" x", ".", "\n\n\n"), (" x", ".")),
        ((" x", ".", "\n", "\n", "\n"), (" x", ".", "\n", "\n")),
        ((" ", "x", "."), (" ", "x", ".")),
        (("x", "."), ()),  # without the blank
        (("\n", " x"), ()),
    ],
)
def test_ids_are_kept_as_far_as_they_print_the_rule(
    drawn: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    known, talk = KnownAnswers(TOKENIZER), talk_of(USER)
    text = "".join(drawn).partition("User:")[0]
    before = shown(known, talk)
    content = keep(known, talk, text, ids_of(*drawn))
    follow = talk_of(USER, said(content), {"role": "user", "content": "b"})
    after = shown(known, follow)
    assert after[: len(before) + len(kept)] == [*before, *kept]
    # Only in its place, and only this text.
    for other in (
        talk_of({**USER, "content": "c"}, said(content), USER),
        talk_of(USER, said(content + "!"), USER),
    ):
        plain = KnownAnswers(TOKENIZER)
        assert shown(known, other) == shown(plain, other)


def test_each_prompt_begins_the_next() -> None:
    known, messages = KnownAnswers(TOKENIZER), [USER]
    answers = [
        (" \u4f60", "\u597d\u3002", "\n\n", "a", "\n\n"),
        (" ```", "\n", "\n", "x", "\n", "```"),
        (" \U0001f600",),
    ]
    before: list[int] = []
    for answer in answers:
        talk = talk_of(*messages)
        fed = known.encode(talk)
        assert fed.ids[: len(before)].tolist() == before
        drawn = [id for text in answer for id in TOKENIZER.encode(text)]
        content = keep(known, talk, "".join(answer), drawn)
        before = [*fed.ids.tolist(), *drawn]
        messages += [said(content), {"role": "user", "content": "more\n\nof it"}]
    assert known.encode(talk_of(*messages)).ids[: len(before)].tolist() == before


def test_a_continued_answer_is_one() -> None:
    known, talk = KnownAnswers(TOKENIZER), talk_of(USER)
    content = keep(known, talk, " x\u3002", ids_of(" x", "\u3002"))
    begun = talk_of(USER, said(content))
    assert shown(known, begun)[-2:] == [" x", "\u3002"]
    content = keep(known, begun, "\n\ny", ids_of("\n\n", "y"), begun=content)
    assert content == "x\u3002\n\ny"
    prompt = len(shown(known, talk))
    follow = talk_of(USER, said(content), USER)
    assert shown(known, follow)[prompt : prompt + 4] == [" x", "\u3002", "\n\n", "y"]


def test_thoughts_that_later_turns_drop_are_not_kept() -> None:
    known = KnownAnswers(TOKENIZER)
    talk = talk_of(USER, persona=G1)
    message = Message("assistant", "<think>\nA</think>\n\nB")
    text = answer_text(G1, talk.names, message)
    assert text == " B"
    known.keep(known.encode(talk), text, TOKENIZER.encode(" <think>\nA</think>\n\nB"))
    assert known.bytes == 0
    fed = known.encode(talk)
    follow = talk_of(USER, said("<think>\nA</think>\n\nB"), USER, persona=G1)
    ids = known.encode(follow).ids
    assert ids[: len(fed.ids)].tolist() == fed.ids.tolist()  # the fork is at the prompt's end


def test_the_oldest_go_first_and_bytes_are_bounded() -> None:
    known = KnownAnswers(TOKENIZER, most_bytes=4000)
    talks = [talk_of({"role": "user", "content": str(n)}) for n in range(100)]
    drawn = ids_of(" x", "\u3002")
    for talk in talks:
        keep(known, talk, " x\u3002", drawn)
        assert known.bytes <= 4000
    assert known.bytes > 3000

    def finds(number: int) -> bool:
        user = {"role": "user", "content": str(number)}
        return shown(known, talk_of(user, said("x\u3002"), USER)).count("\u3002") == 1

    assert finds(99) and not finds(0)
    size = known.bytes
    keep(known, talks[99], " x\u3002", drawn)  # again
    assert known.bytes == size
    keep(known, talks[0], " " + "x" * 2000, ids_of(" ") + ids_of("x") * 2000)  # too large
    assert known.bytes == size


def test_marks_are_those_of_the_text() -> None:
    talk = talk_of({"role": "system", "content": "s"}, USER, said("b"), USER)
    known = KnownAnswers(TOKENIZER)
    fed = known.encode(talk)
    whole, counts = TOKENIZER.encode_marked(talk.text, talk.marks)
    assert fed.ids.tolist() == whole.tolist() and fed.save_at == counts


@pytest.mark.parametrize("count", [3, 5_000])
def test_long_conversations(count: int) -> None:
    """Those with many answers are encoded in a thread."""
    talk, known = talk_of(*[USER, said("x\u3002")] * count, USER), KnownAnswers(TOKENIZER)
    keep(known, talk_of(USER), " x\u3002", ids_of(" x", "\u3002"))
    tokens = shown(known, talk)
    assert tokens.count("\u3002") == 1 and tokens.count("\u3002\n") == count - 1


def test_a_tokenizer_that_changes_texts() -> None:
    """What its ids print is not the text, so nothing is taken apart."""
    music, talk = rn.Tokenizer.named("midi"), talk_of(USER, said("b"), USER)
    known = KnownAnswers(music)
    fed = known.encode(talk)
    assert fed.ids.tolist() == music.encode_prompt(talk.text) and fed.save_at == []
    known.keep(fed, " b", [1, 2])
    assert known.bytes == 0
