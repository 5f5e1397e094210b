"""What a version of the data looks like, and when another one has drifted from it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.accepted import to_table
from tasks.conversations import Accepted
from tasks.data_profile import FEATURES, Profile, drift, profile
from tasks.normalisation import identify

WORDS = [
    "order",
    "parcel",
    "kettle",
    "refund",
    "invoice",
    "courier",
    "account",
    "voucher",
    "address",
    "delivery",
    "colour",
    "warranty",
]
GERMAN = ["sonne", "mond", "sterne", "wolken", "regen"]
KOREAN = ["주문한 상품은 언제쯤 도착", "배송지를 바꿀 수"]
ALLOWED = dict.fromkeys(FEATURES, 0.2)


def rows(count: int, seed: int, speak: Callable[[random.Random], str] | None = None, turns: int = 1) -> list[Accepted]:
    draw = random.Random(seed)
    speak = speak or (lambda draw: " ".join(draw.choices(WORDS, k=draw.randint(8, 16))))
    found = []
    for number in range(count):
        messages = [{"role": role, "content": speak(draw)} for _ in range(turns) for role in ("user", "assistant")]
        tokens = [1] * sum(len(message["content"].split()) for message in messages)
        kind = draw.choice(("returns", "billing"))
        found.append(
            Accepted(
                id=f"r{number}",
                source=f"a.jsonl:{number}",
                group="",
                replay=False,
                topic=kind,
                category=kind[:4],
                priority="low",
                must_say=(),
                messages=messages,  # type: ignore[arg-type]
                tools=(),
                reply_words=len(messages[-1]["content"].split()),
                identity=identify(messages),  # type: ignore[arg-type]
                input_ids=tokens,
                labels=tokens,
            )
        )
    return found


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Sequence[Accepted]], Profile]:
    def make(given: Sequence[Accepted]) -> Profile:
        pq.write_table(to_table(given), tmp_path / "accepted.parquet")
        return profile(tmp_path / "accepted.parquet", "a" * 64)

    return make


Made = Callable[[Sequence[Accepted]], Profile]


def drifted(before: Profile, now: Profile) -> list[str]:
    return [found.feature for found in drift(before, now, ALLOWED) if found.drifted]


def test_rows_are_counted_by_every_feature(made: Made) -> None:
    found = made(rows(100, 1))
    assert (found.rows, found.accepted_sha256) == (100, "a" * 64)
    assert tuple(found.counts) == FEATURES
    for feature in FEATURES[:-1]:
        assert sum(found.counts[feature].values()) == 100, feature
    assert found.counts["roles"] == {"user|assistant": 100}
    assert set(found.counts["topic"]) == {"billing", "returns"}
    assert set(found.counts["tokens"]) <= {"16 to 23", "23 to 32", "11 to 16", "32 to 45"}
    assert not {word for values in found.counts.values() for word in values} & set(WORDS)


def test_the_order_of_rows_does_not_matter(made: Made) -> None:
    given = rows(100, 1)
    assert made(given) == made(given[::-1])


def test_two_samples_of_one_source_have_not_drifted_however_small(made: Made) -> None:
    for count in (12, 60, 150):
        assert drifted(made(rows(count, 1)), made(rows(count, 2))) == [], count


def test_what_is_the_same_has_no_distance(made: Made) -> None:
    found = made(rows(50, 1))
    assert {(feature.distance, feature.p_value) for feature in drift(found, found, ALLOWED)} == {(0.0, 1.0)}


@pytest.mark.parametrize(
    ("changed", "features"),
    [
        (lambda: [replace(row, topic="spam") for row in rows(100, 2)], {"topic"}),
        (lambda: [replace(row, category="spam") for row in rows(100, 2)], {"category"}),
        (lambda: [replace(row, reply_words=200) for row in rows(100, 2)], {"reply_words"}),
        (lambda: [replace(row, input_ids=[1] * 400) for row in rows(100, 2)], {"tokens"}),
        (lambda: rows(100, 2, turns=3), {"roles", "tokens"}),
        (
            lambda: rows(100, 2, lambda draw: " ".join(draw.choices(GERMAN, k=12))),
            {"vocabulary"},
        ),
        (
            lambda: rows(100, 2, lambda draw: draw.choice(KOREAN) * 3),
            {"vocabulary", "language"},
        ),
    ],
    ids=["topic", "category", "reply length", "length", "turns", "words", "language"],
)
def test_what_changed_is_named(made: Made, changed: Callable[[], list[Accepted]], features: set[str]) -> None:
    assert features <= set(drifted(made(rows(100, 1)), made(changed())))


def test_values_that_moved_stand_with_their_shares(made: Made) -> None:
    spam = [replace(row, topic="spam") for row in rows(100, 2)]
    topic = next(found for found in drift(made(rows(100, 1)), made([*rows(100, 1), *spam]), ALLOWED) if found.feature == "topic")
    assert topic.drifted
    assert topic.moved[0] == "spam 0.0% -> 50.0%"
    assert topic.p_value < 0.001 < topic.distance < 1


def test_distance_grows_with_the_share_of_what_is_new(made: Made) -> None:
    old, new = rows(100, 1), [replace(row, topic="spam") for row in rows(100, 2)]
    profiles = [made([*old, *new[:count]]) for count in (0, 10, 30, 100)]
    distances = [next(f.distance for f in drift(profiles[0], now, ALLOWED) if f.feature == "topic") for now in profiles]
    assert distances == sorted(set(distances))
