"""One function over many items: in order, in this process or in several, reading no further ahead than needed."""

import operator
import os
from collections.abc import Iterator
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


def test_several_processes_give_the_same_and_read_only_a_little_ahead() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(1, 1000):
            read.append(number)
            yield number if number != 20 else 0

    results = map_ordered(DIVIDE, items(), 2)
    assert [next(results) for _ in range(19)] == [12 // number for number in range(1, 20)]
    assert len(read) < 30
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_making_the_function_is_itself_and_other_processes_work() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(partial(operator.floordiv, 1, 0), range(5), 2))
    assert os.getpid() not in set(map_ordered(partial(partial, _process), range(8), 2))


def _process(item: int) -> int:
    return os.getpid()
