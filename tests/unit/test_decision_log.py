"""The share of items that two test splits have in common, by what the log keeps of them."""

import pytest

from tasks.decision_log import common_share, sketch
from tasks.files import sha256_json


def items(first: int, last: int) -> list[str]:
    return sketch(sha256_json(number)[:16] for number in range(first, last))


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [((0, 100), (0, 100), 1.0), ((0, 60), (20, 80), 0.5), ((0, 60), (60, 120), 0.0), ((0, 0), (0, 9), 0.0)],
)
def test_the_share_of_few_items_is_exact(one: tuple[int, int], other: tuple[int, int], share: float) -> None:
    assert common_share(items(*one), items(*other)) == share


@pytest.mark.parametrize("share", [1.0, 0.9, 0.6, 0.3])
def test_of_many_it_is_close(share: float) -> None:
    """Some 128 draws: a standard deviation of at most 4.4 points."""
    n, kept = 5_000, round(5_000 * 2 * share / (1 + share))
    assert common_share(items(0, n), items(n - kept, 2 * n - kept)) == pytest.approx(share, abs=0.11)
