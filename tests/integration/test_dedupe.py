"""Near duplicates: all of them, nothing else, the first stays, in any script, and with buckets of any size."""

import random
from functools import cache
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import dedupe
from tasks.dedupe import NGRAM, Conflict, NearDuplicate, conflicts, lsh_shape, near_duplicates

KOREAN = "주문한 상품이 아직 도착하지 않았는데 배송 상태를 어디에서 확인할 수 있나요 그리고 환불은 며칠 안에 가능한가요"
CHINESE = "我昨天订购的蓝色茶壶到现在还没有发货请问什么时候可以送到如果不能按时送到我想取消订单并且退款"
THAI = "สินค้าที่ฉันสั่งซื้อเมื่อวานนี้ยังไม่ได้รับเลยอยากทราบว่าจะจัดส่งเมื่อไหร่และขอคืนเงินได้ภายในกี่วัน"
ENGLISH = "the kettle that i ordered last week has not arrived yet where can i see when it will be delivered to my door"


@cache
def ngrams(text: str) -> frozenset[str]:
    padded = "\0" * (NGRAM - 1) + text + "\0" * (NGRAM - 1)
    return frozenset(padded[start : start + NGRAM] for start in range(len(padded) - NGRAM + 1))


def jaccard(one: str, other: str) -> float:
    a, b = ngrams(one), ngrams(other)
    return len(a & b) / len(a | b)


def dropped_by_comparing_all(texts: list[str], threshold: float) -> list[int]:
    kept: list[str] = []
    dropped = []
    for row, text in enumerate(texts):
        if any(jaccard(text, other) >= threshold for other in kept):
            dropped.append(row)
        else:
            kept.append(text)
    return dropped


def sentence(rng: random.Random, words: int = 60) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(words)]


def assert_true(found: list[NearDuplicate], texts: list[str], threshold: float) -> None:
    rows = [pair.row for pair in found]
    assert rows == sorted(set(rows)), "each row once, in order"
    for pair in found:
        assert pair.of < pair.row
        assert pair.of not in rows, "what it duplicates stays"
        assert pair.similarity == jaccard(texts[pair.row], texts[pair.of]) >= threshold


@given(
    st.lists(st.text("ab가나 ", max_size=9) | st.sampled_from([KOREAN, ENGLISH, ENGLISH + " now", ENGLISH[4:]]), max_size=9),
    st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_what_is_reported_is_true_and_what_is_well_above_the_threshold_is_reported(texts: list[str], threshold: float) -> None:
    found = near_duplicates(iter(texts), threshold)
    assert_true(found, texts, threshold)
    reported = {pair.row for pair in found}
    stay = [text for row, text in enumerate(texts) if row not in reported]
    assert all(jaccard(one, other) < min(threshold + 0.2, 1) for at, one in enumerate(stay) for other in stay[:at])


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_as_good_as_all_is_found_that_comparing_all_finds(threshold: float) -> None:
    rng = random.Random(1)
    texts = []
    for _ in range(40):
        words = sentence(rng)
        texts.append(" ".join(words))
        for place in rng.sample(range(60), rng.randint(0, 12)):  # similarities from 1 down to 0.4
            words[place] = "zz"
        texts.append(" ".join(words))
    found = near_duplicates(texts, threshold)
    assert_true(found, texts, threshold)
    wanted = dropped_by_comparing_all(texts, threshold)
    assert 5 < len(wanted) <= 40
    assert len(wanted) - len(found) <= 1
    assert {pair.row for pair in found} <= set(wanted)


def test_the_bands_find_99_percent_at_the_threshold_and_are_as_wide_as_that_allows() -> None:
    assert lsh_shape(0.8) == (21, 6)
    assert lsh_shape(1.0) == (1, 128)
    for threshold in (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95):
        bands, width = lsh_shape(threshold)
        assert 1 - (1 - threshold**width) ** bands >= 0.99
        assert 1 - (1 - threshold ** (width + 1)) ** (128 // (width + 1)) < 0.99


@pytest.mark.parametrize("text", [KOREAN, CHINESE, THAI, ENGLISH])
def test_any_script(text: str) -> None:
    """One character in the middle is another: at most 5 n-grams of each text differ."""
    changed = text[:20] + "뷁" + text[21:]
    others = [KOREAN, CHINESE, THAI, ENGLISH]
    others.remove(text)
    (pair,) = near_duplicates([text, *others, changed], 0.75)
    assert (pair.row, pair.of) == (4, 0)
    assert pair.similarity == pytest.approx(jaccard(text, changed))


@pytest.mark.parametrize(
    ("one", "other", "same"), [("예", "예", True), ("a", "b", False), ("네", "예", False), ("", "", True), ("", "a", False)]
)
def test_short_texts(one: str, other: str, same: bool) -> None:
    assert bool(near_duplicates([one, other], 0.8)) is same
    assert near_duplicates([], 0.8) == []


def test_a_row_between_two_is_no_bridge() -> None:
    """b repeats a and goes, c repeats only b: so c stays."""
    rng = random.Random(3)
    words = sentence(rng)
    a = " ".join(words)
    b = " ".join([*words[:57], *sentence(rng, 3)])
    c = " ".join([*sentence(rng, 3), *b.split()[3:]])
    assert min(jaccard(a, b), jaccard(b, c)) > 0.85 > 0.82 > jaccard(a, c)
    assert [(pair.row, pair.of) for pair in near_duplicates([a, b, c], 0.85)] == [(1, 0)]
    assert [(pair.row, pair.of) for pair in near_duplicates([b, a, c], 0.85)] == [(1, 0), (2, 0)]


def test_of_a_large_family_one_stays() -> None:
    rng = random.Random(4)
    words = sentence(rng)
    texts = [" ".join(words) + f" {row}" for row in range(500)]
    found = near_duplicates(texts, 0.8)
    assert [(pair.row, pair.of) for pair in found] == [(row, 0) for row in range(1, 500)]


def test_a_template_below_the_threshold_costs_few_comparisons_and_hides_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """1500 rows of one template, any two about 0.6 alike, fill the buckets; the last 50 repeat one but for a word."""
    rng = random.Random(5)
    template = sentence(rng)
    rows = []
    for _ in range(1500):
        words = list(template)
        for place in rng.sample(range(60), 6):
            words[place] = "".join(rng.choices("qrstuvwxyz", k=8))
        rows.append(words)
    repeated = rng.sample(range(1500), 50)
    texts = [" ".join(words) for words in rows] + [" ".join([*rows[of][:-1], "last"]) for of in repeated]
    assert 0.5 < jaccard(texts[0], texts[1]) < 0.7
    compared = Mock(wraps=dedupe._jaccard)
    monkeypatch.setattr(dedupe, "_jaccard", compared)
    found = near_duplicates(texts, 0.8)
    assert sum((pair.row, pair.of) in zip(range(1500, 1550), repeated, strict=True) for pair in found) >= 49
    assert compared.call_count <= 4 * len(texts)


def test_conflicts_are_prompts_with_different_replies() -> None:
    rows = [("p", "yes"), ("q", "yes"), ("r", "a"), ("p", "yes"), ("r", "b"), ("q", "yes"), ("p", "no"), ("r", "a")]
    assert conflicts(*zip(*rows, strict=True)) == [Conflict("p", (0, 3, 6)), Conflict("r", (2, 4, 7))]
    assert conflicts([], []) == []
