"""When the raw data have changed: once for each version of them, and not while they still change.

Looking costs one stat(2) a file; the bytes are only read when something moved and has been quiet since. What was seen lies in
.cache/watch.json, so that a restart, or another process that looks, goes on where this one stopped.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks import readers
from tasks.errors import DataError
from tasks.files import hash_tree, sha256_json
from tasks.paths import Workspace
from tasks.records import Record


class Seen(Record):
    """`signature` is that of the last look, `changed_at` when it became so; the others are of the last version told of."""

    signature: str
    changed_at: float
    pending: bool
    fingerprint: str
    number: int
    rows: int


@dataclass(frozen=True, slots=True)
class Change:
    """A new version of the data. `key` is the same whoever finds it, and another one when the same bytes come back later."""

    fingerprint: str
    number: int
    rows: int
    rows_before: int
    files: int

    @property
    def key(self) -> str:
        return f"{self.number}:{self.fingerprint}"

    def summary(self) -> str:
        """For a person: counts, and by which name the version goes."""
        return f"{self.rows} rows in {self.files} files (before: {self.rows_before}), version {self.fingerprint[:12]}"


class DataWatch:
    """Looks at a folder of raw data.

    Args:
        folder: The raw data.
        state: Where what was seen is kept.
        quiet: Seconds without a change before a version counts.
        min_new_rows: A version with fewer rows more than the last one waits for others.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, folder: Path, state: Path, quiet: float, min_new_rows: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._state = folder, state
        self._quiet, self._min_new_rows, self._clock = quiet, min_new_rows, clock

    @property
    def started(self) -> bool:
        """Whether there was a look at these data before, of this process or another one."""
        return self._state.is_file()

    def start(self, known: bool) -> None:
        """Before the first look ever: whether the data as they lie there were worked on already."""
        fingerprint, rows = (_fingerprint(self._folder), _count_rows(self._folder)) if known else ("", 0)
        Seen(
            signature=signature(self._folder),
            changed_at=self._clock(),
            pending=not known,
            fingerprint=fingerprint,
            number=0,
            rows=rows,
        ).write(self._state)

    def look(self) -> Change | None:
        """A version that nobody was told of yet, once it has been quiet; it comes again until `told`."""
        seen, found = self._seen(), signature(self._folder)
        if found != seen.signature:
            seen = self._update(signature=found, changed_at=self._clock(), pending=True)
        if not seen.pending or self._clock() - seen.changed_at < self._quiet:
            return None
        fingerprint, rows = _fingerprint(self._folder), _count_rows(self._folder)
        if signature(self._folder) != found:
            return None  # it changed while it was read: the next look sees that
        if fingerprint == seen.fingerprint or 0 <= rows - seen.rows < self._min_new_rows:
            self._update(pending=False)
            return None
        return Change(fingerprint, seen.number + 1, rows, seen.rows, len(_raw_files(self._folder)))

    def told(self, change: Change) -> None:
        """The version is known where it must be; only now is it forgotten here, so that a kill in between loses nothing."""
        self._update(fingerprint=change.fingerprint, number=change.number, rows=change.rows)

    def waits(self) -> bool:
        """Whether there are data that nobody was told of; of a folder that nobody watches it is not known, and False."""
        if not self.started:
            return False
        seen = self._seen()
        return seen.pending or seen.signature != signature(self._folder)

    def _seen(self) -> Seen:
        try:
            return Seen.model_validate_json(self._state.read_bytes())
        except ValidationError:
            raise DataError(f"{self._state}: not what a watch leaves; remove it, the data then count as new") from None

    def _update(self, **changes: Any) -> Seen:
        return self._seen().model_copy(update=changes).write(self._state)


def watch_of(workspace: Workspace, raw: str, quiet: float, min_new_rows: int) -> DataWatch:
    """The watch of a workspace's raw data."""
    return DataWatch(workspace.root / raw, workspace.root / ".cache" / "watch.json", quiet, min_new_rows)


def signature(folder: Path) -> str:
    """Changes with any name, size or time of modification below the folder."""
    entries = []
    for path in sorted(folder.rglob("*")):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # gone since the listing
        if path.is_file():
            entries.append([path.relative_to(folder).as_posix(), found.st_size, found.st_mtime_ns, found.st_ino])
    return sha256_json(entries)


def _fingerprint(folder: Path) -> str:
    try:
        return sha256_json(hash_tree(folder))
    except FileNotFoundError:
        return ""  # a file went while it was read; the signature tells


def _raw_files(folder: Path) -> list[Path]:
    try:
        return readers.find_raw_files(folder)
    except DataError:
        return []  # none left; validate says so


def _count_rows(folder: Path) -> int:
    """Of every file as far as it can be read; validate says what is wrong with the rest."""
    rows = 0
    for path in _raw_files(folder):
        with suppress(DataError, FileNotFoundError):
            for _ in readers.read_rows(path, path.name, {}):
                rows += 1
    return rows
