"""One function over many items on every core, in order: in processes, or in threads where NumPy does the work."""

import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.process import on_parent_death

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 3  # items under way for each worker: enough that none waits, few enough that memory stays flat


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`size` items at a time, fewer at the end: itertools.batched of Python 3.12, in lists."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


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
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Not fork: the libraries' threads and locks would be copied in whatever state they are.
    yield from _in_order(ProcessPoolExecutor(count, get_context("spawn"), _set_up, (make,)), _call, items, count)


def map_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function(item)` for each item, in their order; for what spends its time where Python's lock is free, as in NumPy.

    Args:
        function: May be called by several threads at once.
        items: Read no further ahead than the threads need.

    Raises:
        Whatever the function raises, in its place in the order.
    """
    from concurrent.futures import ThreadPoolExecutor

    count = len(os.sched_getaffinity(0))
    yield from _in_order(ThreadPoolExecutor(count), function, items, count)


def _in_order(pool: "Executor", function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    try:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) >= _AHEAD * workers:
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
    _made = cache(partial(_make_once, make))


def _make_once(make: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """The function; what it is made of stays, so the garbage collector need not walk through it at every few hundred objects."""
    made = make()
    gc.freeze()
    gc.set_threshold(50_000)
    return made


def _call(item: Any) -> Any:
    return _made()(item)
