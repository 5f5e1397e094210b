"""One function over many items: in order, in this process or in several, reading no further ahead than needed."""

import operator
import os
from collections.abc import Iterator
from functools import partial

import pytest

from tasks.parallel import map_ordered

TRIPLE = partial(partial, operator.mul, 3)  # called once in a process, it gives the function
DIVIDE = partial(partial, operator.floordiv, 12)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items(processes: int) -> None:
    assert list(map_ordered(TRIPLE, range(50), processes)) == [3 * number for number in range(50)]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_in_its_place(processes: int) -> None:
    results = map_ordered(DIVIDE, [1, 2, 0, 3], processes)
    assert [next(results), next(results)] == [12, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_making_the_function_is_itself(processes: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(partial(operator.floordiv, 1, 0), range(5), processes))


def test_items_are_read_only_a_little_ahead() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = map_ordered(TRIPLE, items(), 2)
    assert [next(results) for _ in range(10)] == [3 * number for number in range(10)]
    assert len(read) < 20
    results.close()  # type: ignore[attr-defined]


def test_several_processes_are_several() -> None:
    assert os.getpid() not in set(map_ordered(partial(partial, _process), range(8), 2))
    assert set(map_ordered(partial(partial, _process), range(8), 1)) == {os.getpid()}


def _process(item: int) -> int:
    return os.getpid()
