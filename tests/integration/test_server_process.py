"""Transactions of Prefect's server on SQLite."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

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

    from flows.server_process import take_turns

    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)  # back at the end
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(raise_by_one(tmp_path / "prefect.db"))
    take_turns()
    assert asyncio.run(raise_by_one(tmp_path / "refit.db")) == AT_ONCE
