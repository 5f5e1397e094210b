"""Garbage of Prefect's server is collected beside its event loop."""

import gc
import threading

import pytest

from flows.server_process import collect_beside


class Cycle:
    """Tells which thread frees it."""

    def __init__(self, freed: list[int], done: threading.Event) -> None:
        self.me, self.freed, self.done = self, freed, done

    def __del__(self) -> None:
        self.freed.append(threading.get_ident())
        self.done.set()


def test_garbage_is_freed_on_a_thread_of_its_own_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.server_process._SECONDS", 0.01)
    freed: list[int] = []
    done, stop = threading.Event(), threading.Event()
    thread = collect_beside(stop)
    try:
        Cycle(freed, done)
        assert not gc.isenabled()
        assert done.wait(60)
        assert freed == [thread.ident]
    finally:
        stop.set()
        thread.join()
    assert gc.isenabled()
