"""What counts as the same text."""

import unicodedata

import pytest

from tasks.normalisation import Identity, identify, normalise


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


def said(*turns: tuple[str, str]) -> Identity:
    return identify([{"role": role, "content": content} for role, content in turns])


ASKED = said(("system", "Be kind."), ("user", "When is it here?"), ("assistant", "Soon."))


def test_a_prompt_is_all_that_stands_before_the_last_reply() -> None:
    other_reply = said(("system", "be kind"), ("user", "when is it  HERE"), ("assistant", "Tomorrow."))
    assert other_reply.prompt_hash == ASKED.prompt_hash
    assert other_reply.content_hash != ASKED.content_hash
    assert said(("user", "When is it here?"), ("assistant", "Soon.")).prompt_hash != ASKED.prompt_hash
    assert said(("system", "BE KIND"), ("user", "when is it here"), ("assistant", "soon")) == ASKED


def test_a_text_is_what_user_and_assistant_say() -> None:
    assert ASKED.text == "when is it here soon"


def test_hashes_know_roles_and_the_borders_of_messages() -> None:
    variants = [
        said(("user", "a b"), ("assistant", "c")),
        said(("system", "a b"), ("assistant", "c")),
        said(("system", "a"), ("user", "b"), ("assistant", "c")),
        said(("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")),
    ]
    assert len({identity.prompt_hash for identity in variants}) == len({identity.content_hash for identity in variants}) == 4
