"""`prefect server start`, made fit for SQLite.

    python -m flows.server_process

Garbage is collected beside the event loop. Prefect 3.8 stands still for a minute now and then: the garbage collector frees a
cursor on the event loop's thread, which waits in sqlite3_reset for a connection that waits for the database's lock, until SQLite
gives up after 60 s; it took that very thread to release the lock.

Transactions wait for their turn. Prefect begins most of them as DEFERRED: one that reads before it writes is refused at once if
another wrote in between (SQLITE_BUSY_SNAPSHOT, https://www.sqlite.org/isolation.html), whatever the busy timeout. The request is
then answered with 503; an event is lost to all automations after four tries within 0.1 s, be it the end of a run
(PrefectHQ/prefect issue 21932) or that there are new data.

tests/benchmarks/server_stalls.py shows what each of the two is worth.
"""

import gc
import runpy
import sys
import threading
from contextlib import AbstractAsyncContextManager
from typing import Any

_SECONDS = 1.0
_YOUNG_ONLY = 30
"""Collections of the two younger generations for each of everything."""


def collect_beside(stop: threading.Event) -> threading.Thread:
    """Until `stop` collect garbage on a thread of its own, and on no other."""
    gc.disable()
    thread = threading.Thread(target=_collect, args=(stop,), name="garbage", daemon=True)
    thread.start()
    return thread


def _collect(stop: threading.Event) -> None:
    turn = 0
    while not stop.wait(_SECONDS):
        gc.collect(1 if turn % _YOUNG_ONLY else 2)
        turn += 1
    gc.enable()


def take_turns() -> None:
    """Have every transaction on SQLite begin as IMMEDIATE: it waits for the writer before it, and only then reads."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(self: Any, session: Any, with_for_update: bool = False) -> AbstractAsyncContextManager[Any]:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[method-assign,assignment]


def main() -> None:
    """Entry point of the process."""
    collect_beside(threading.Event())
    take_turns()
    sys.argv = ["prefect", "server", "start"]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
