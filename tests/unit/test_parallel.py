"""One function over many items: in order, in this process or in several, reading no further ahead than needed."""

import operator
from functools import partial

import pytest

from tasks.parallel import map_ordered

TRIPLE = partial(partial, operator.mul, 3)  # called once in a process, it gives the function
DIVIDE = partial(partial, operator.floordiv, 12)


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(map_ordered(TRIPLE, range(50), 1)) == [3 * number for number in range(50)]


def test_an_error_comes_in_its_place() -> None:
    results = map_ordered(DIVIDE, [1, 2, 0, 3], 1)
    assert [next(results), next(results)] == [12, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
