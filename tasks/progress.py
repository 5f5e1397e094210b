"""How far long work is, told in a line every few seconds."""

import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Row = TypeVar("Row")
_SECONDS = 5.0
_STEP = 32  # rows between two looks at the clock, which take longer than the rows do


class Progress:
    """Prints `validated 120,000 rows, 24,000 rows/s` at most every five seconds, and at the end if it was slower than that.

    Args:
        verb: What is done with the rows.
        to: Standard error for a command whose answer is on standard output; default: standard output, the log of a stage.
    """

    def __init__(self, verb: str, to: TextIO | None = None) -> None:
        self._verb, self._to = verb, to
        self._rows = self._told_rows = 0
        self._began = self._told = time.monotonic()

    def add(self, rows: int) -> None:
        """Count rows that are done."""
        self._rows += rows
        if time.monotonic() - self._told >= _SECONDS:
            self._tell()

    def end(self) -> None:
        """Tell the total where it took long enough for a line before."""
        if self._told_rows not in (0, self._rows):
            self._tell()

    def _tell(self) -> None:
        self._told, self._told_rows = time.monotonic(), self._rows
        print(
            f"{self._verb} {self._rows:,} rows, {self._rows / (self._told - self._began):,.0f} rows/s", flush=True, file=self._to
        )


def counted(rows: Iterable[Row], verb: str, to: TextIO | None = None) -> Iterator[Row]:
    """The rows, with the progress of whoever takes them."""
    progress, number = Progress(verb, to), 0
    for number, row in enumerate(rows, 1):
        yield row
        if not number % _STEP:
            progress.add(_STEP)
    progress.add(number % _STEP)
    progress.end()
