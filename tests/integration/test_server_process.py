"""Prefect's server as it suits SQLite: transactions wait for their turn, garbage is collected beside its event loop."""

import asyncio
import gc
import threading
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from flows.server_process import collect_beside, take_turns

AT_ONCE = 8


async def raise_by_one(database: Path) -> int:
    """Add one to a number, as many times at once as there are transactions; gives what it is after all of them."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    settings = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{database}")
    engine = await settings.engine()

    async def read_and_write() -> None:
        async with await settings.session(engine) as session, settings.begin_transaction(session):
            found = (await session.execute(sqlalchemy.text("select number from counts"))).scalar_one()
            await session.execute(sqlalchemy.text("update counts set number = :number"), {"number": found + 1})

    async with await settings.session(engine) as session, settings.begin_transaction(session):
        await session.execute(sqlalchemy.text("create table counts (number integer)"))
        await session.execute(sqlalchemy.text("insert into counts values (0)"))
    try:
        await asyncio.gather(*(read_and_write() for _ in range(AT_ONCE)))
        async with await settings.session(engine) as session:
            number: int = (await session.execute(sqlalchemy.text("select number from counts"))).scalar_one()
            return number
    finally:
        await engine.dispose()


def test_a_transaction_that_reads_and_then_writes_waits_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Prefect begins it, it is refused at once if another one wrote in between."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)  # back at the end
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(raise_by_one(tmp_path / "prefect.db"))
    take_turns()
    assert asyncio.run(raise_by_one(tmp_path / "refit.db")) == AT_ONCE


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
