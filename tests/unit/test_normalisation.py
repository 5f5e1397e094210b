"""What counts as the same text."""

import unicodedata

import pytest

from tasks.chat import Message
from tasks.normalisation import hash_messages, normalise


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Where  is\tmy\n ORDER?!", "where is my order"),
        ("Ｗｈｅｒｅ　１２", "where 12"),
        ("the ﬁrst №  ①", "the first no 1"),
        ("STRASSE", normalise("straße")),
        ("order_id", "order_id"),
        ("환불은 언제 되나요?", "환불은 언제 되나요"),
        (unicodedata.normalize("NFD", "환불은 언제 되나요"), "환불은 언제 되나요"),
        ("ﾃﾞｰﾀ", "データ"),
        (unicodedata.normalize("NFD", "Café à Zürich"), "café à zürich"),
        ("… — “”", ""),
        ("", ""),
    ],
)
def test_what_makes_no_difference_goes(text: str, wanted: str) -> None:
    assert normalise(text) == wanted == normalise(wanted)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("15 days", "1 5 days"),
        ("환불", "한불"),
        ("café", "cafe"),
        ("मेरा", "मेरी"),  # marks, not letters, tell these apart, and those below
        ("มี", "มู"),
        ("கை", "கா"),
    ],
)
def test_what_makes_a_difference_stays(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def said(*turns: tuple[str, str]) -> str:
    messages: list[Message] = [{"role": role, "content": content} for role, content in turns]
    return hash_messages(messages)


def test_a_hash_follows_what_makes_a_difference() -> None:
    asked = said(("user", "When is it here?"))
    assert said(("user", "when is it  HERE")) == asked
    assert said(("user", "When was it here?")) != asked
    assert said(("system", "Be kind."), ("user", "When is it here?")) != asked


def test_a_hash_knows_roles_and_the_borders_of_messages() -> None:
    variants = [
        said(("user", "a b")),
        said(("system", "a b")),
        said(("system", "a"), ("user", "b")),
        said(("user", "a"), ("assistant", ""), ("user", "b")),
    ]
    assert len(set(variants)) == 4
