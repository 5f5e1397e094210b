"""One function over many items on every core, in order."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

from tasks.process import on_parent_death

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 3  # items under way for each process: enough that none waits, few enough that memory stays flat


def map_ordered(
    make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], processes: int | None = None
) -> Iterator[Result]:
    """`make()(item)` for each item, in the order of the items, whatever process was first.

    Args:
        make: Builds the function, once in each process; picklable, as are items and results.
        items: Read no further ahead than the processes need.
        processes: Default: one for each core that this process may use. With one, nothing leaves this process.

    Raises:
        Whatever the function raises, in its place in the order.
    """
    count = processes or len(os.sched_getaffinity(0))
    if count == 1:
        yield from map(make(), items)
        return
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing import get_context

    # Not fork: the libraries' threads and locks would be copied in whatever state they are.
    pool = ProcessPoolExecutor(count, get_context("spawn"), _set_up, (make,))
    try:
        ahead: deque[Future[Any]] = deque()
        for item in items:
            ahead.append(pool.submit(_call, item))
            if len(ahead) >= _AHEAD * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_made: Callable[[], Callable[[Any], Any]]


def _set_up(make: Callable[[], Callable[[Any], Any]]) -> None:
    """Remember how; an error of making it is for the first call, since one in here would only break the pool."""
    global _made
    on_parent_death(signal.SIGKILL)
    _made = cache(make)


def _call(item: Any) -> Any:
    return _made()(item)
