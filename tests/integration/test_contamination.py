"""Leaks: what holds a protected text is found in any script, what only sounds like one is not."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contamination import MIN_BYTES, NGRAM, Leak, contaminated
from tests.integration.test_dedupe import CHINESE, ENGLISH, KOREAN, THAI, sentence

OTHER = "please tell me which forms of payment you take for a mixer and whether a gift card is one of them"

WORDS = ["alpha", "beta", "가나다", "漢字漢", "delta", "epsilon", "zeta"]


def overlap(text: str, row: str) -> float:
    a, b = ({data[start : start + NGRAM] for start in range(len(data) - NGRAM + 1)} for data in (text.encode(), row.encode()))
    return len(a & b) / len(a)


@pytest.mark.parametrize("text", [KOREAN, CHINESE, THAI, ENGLISH])
def test_a_protected_text_inside_of_a_row_is_found_in_any_script(text: str) -> None:
    rows = [OTHER, f"{OTHER} {text} {OTHER}", text, text[: len(text) // 3]]
    assert contaminated(iter(rows), [("test:1", text)], 0.7) == [Leak(1, "test:1", 1.0), Leak(2, "test:1", 1.0)]


@pytest.mark.parametrize("text", [KOREAN, CHINESE, THAI, ENGLISH])
def test_one_changed_character_does_not_hide_a_leak(text: str) -> None:
    changed = text[:20] + "뷁" + text[21:]
    (leak,) = contaminated([OTHER, changed], [("test:1", text)], 0.7)
    assert leak == Leak(1, "test:1", overlap(text, changed))


def test_a_short_protected_text_counts_only_as_the_whole_row() -> None:
    item = "4 plus 4 equals"
    rows = [f"my order says that {item} 8 cups is that right", item, "4 plus 4 equals 8", "4 plus 5 equals"]
    assert contaminated(rows, [("arithmetic-002", item)], 0.7) == [Leak(1, "arithmetic-002", 1.0)]


@pytest.mark.parametrize(("size", "found"), [(MIN_BYTES - 1, False), (MIN_BYTES, True)])
def test_short_is_a_matter_of_bytes(size: int, found: bool) -> None:
    text = ENGLISH[:size]
    assert bool(contaminated([f"{OTHER} {text} {OTHER}"], [("x", text)], 0.7)) is found
    assert bool(contaminated([f"{OTHER} {CHINESE[:10]} {OTHER}"], [("x", CHINESE[:10])], 0.7)), "10 Han characters are 30 bytes"


def test_long_common_training_texts_are_not_condemned_by_general_items() -> None:
    """Sentences about the same things in the same words, none of which is an item."""
    items = [
        ("facts-004", "the capital of germany is berlin"),
        ("grammar-003", "the children play in the garden every day"),
        ("common_sense-001", "he left the ice cream on the hot sidewalk and it melted"),
    ]
    story = (
        "every day the dogs play in the park and the children are in the house while the garden is wet and the ice on the "
        "sidewalk melted as he left it there the capital of france is paris and germany is a country with a capital "
    )
    assert contaminated([story * 20], items, 0.7) == []
    assert [leak.of for leak in contaminated([story + items[1][1]], items, 0.7)] == ["grammar-003"]


def test_the_largest_overlap_is_named_and_equal_texts_by_the_first() -> None:
    half = ENGLISH[: len(ENGLISH) * 3 // 4] + " and then came the rain"
    protected = [("partly", half), ("first", ENGLISH), ("second", ENGLISH)]
    assert contaminated([ENGLISH], protected, 0.6) == [Leak(0, "first", 1.0)]


@given(st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_as_comparing_all_finds_it(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from(WORDS), min_size=5, max_size=12).map(" ".join)
    protected = [(f"p{at}", text) for at, text in enumerate(data.draw(st.lists(words, max_size=4)))]
    rows = data.draw(st.lists(words, max_size=6))
    threshold = data.draw(st.sampled_from([0.4, 0.7, 0.9, 1.0]))
    best = {
        row: max((overlap(item, text) for _, item in protected if len(item.encode()) >= MIN_BYTES), default=0.0)
        for row, text in enumerate(rows)
    }
    wanted = {row: share for row, share in best.items() if share >= threshold}
    whole = {row: 1.0 for row, text in enumerate(rows) if text in [item for _, item in protected]}
    assert {leak.row: leak.overlap for leak in contaminated(rows, protected, threshold)} == pytest.approx(wanted | whole)


def test_protected_texts_of_one_template_cost_little_and_each_is_found() -> None:
    """600 protected texts differ by two words; a row that repeats one is reported, a row of other words is not."""
    rng = random.Random(6)
    template = sentence(rng, 20)
    protected = [(f"test:{row}", " ".join([*template, *sentence(rng, 12)])) for row in range(600)]
    rows = [text for _, text in protected[::20]] + [" ".join(sentence(rng, 40)) for _ in range(30)]
    leaks = contaminated(rows, protected, 0.8)
    assert [(leak.row, leak.of) for leak in leaks] == [(row, f"test:{20 * row}") for row in range(30)]


def test_nothing_to_protect_and_nothing_to_train() -> None:
    assert contaminated([ENGLISH], [], 0.7) == []
    assert contaminated([], [("x", ENGLISH)], 0.7) == []
    assert contaminated(["", "a"], [("empty", "")], 0.7) == []
