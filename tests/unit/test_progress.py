"""Long work is told of every few seconds, short work not at all."""

import sys

import pytest

from tasks.progress import Progress, counted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since some start; the last one counts."""
    times = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: times[-1])
    return times


def test_short_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work = Progress("done")
    clock.append(4.9)
    work.add(10)
    work.end()
    assert capsys.readouterr().out == ""


def test_a_command_keeps_its_output_for_the_answer(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    rows = counted(range(70), "done", sys.stderr)
    next(rows)
    clock.append(8)
    assert list(rows) == list(range(1, 70))
    assert capsys.readouterr() == ("", "done 32 rows, 4 rows/s\ndone 70 rows, 9 rows/s\n")


def test_long_work_tells_rows_and_rate_and_its_end_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work = Progress("done")
    for seconds in (1, 6, 7, 12):
        clock.append(seconds)
        work.add(3000)
    assert capsys.readouterr().out == "done 6,000 rows, 1,000 rows/s\ndone 12,000 rows, 1,000 rows/s\n"
    work.end()
    assert capsys.readouterr().out == ""
    work.add(1000)
    clock.append(13)
    work.end()
    assert capsys.readouterr().out == "done 13,000 rows, 1,000 rows/s\n"
