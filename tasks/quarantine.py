"""Refused rows on disk: one file a reason, each row with its place and its own bytes."""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tasks.conversations import Quarantined

TOP_REASONS = 5


class Quarantine:
    """A folder that fills with REASON.jsonl: `{"file", "line", "detail", "raw"}`, in the order of the rows.

    `raw` is the row's text; bytes that are not UTF-8 stand under `raw_base64` instead, so that none is lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[str]] = {}
        self._first: dict[str, Quarantined] = {}
        self.counts: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.counts.total()

    def add(self, rows: Iterable[Quarantined]) -> None:
        """Append rows to the files of their reasons."""
        for row in rows:
            self.counts[row.reason] += 1
            self._first.setdefault(row.reason, row)
            if row.reason not in self._files:
                self._files[row.reason] = (self._folder / f"{row.reason}.jsonl").open("w", encoding="utf-8")
            self._files[row.reason].write(json.dumps(_shown(row), ensure_ascii=False) + "\n")

    def lines(self) -> list[str]:
        """For a person: the most frequent reasons with the first row of each."""
        return [
            f"{count} {reason}, first {self._first[reason].file}:{self._first[reason].line}: {self._first[reason].detail}"
            for reason, count in self.counts.most_common(TOP_REASONS)
        ]

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()


def _shown(row: Quarantined) -> dict[str, Any]:
    place = {"file": row.file, "line": row.line, "detail": row.detail}
    try:
        return place | {"raw": row.raw.decode()}
    except UnicodeDecodeError:
        return place | {"raw_base64": base64.b64encode(row.raw).decode()}
