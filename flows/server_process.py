"""`prefect server start`, with its garbage collected beside the event loop.

    python -m flows.server_process

On SQLite Prefect 3.8 stands still for a minute now and then: the garbage collector frees a cursor on the event loop's thread,
which waits in sqlite3_reset for a connection that waits for the database's lock, until SQLite gives up after 60 s; it took that
very thread to release the lock. Of 51 runs that were triggered at once six waited so (tests/benchmarks/fifty_triggers.py).
"""

import gc
import runpy
import sys
import threading

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


def main() -> None:
    """Entry point of the process."""
    collect_beside(threading.Event())
    sys.argv = ["prefect", "server", "start"]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
