"""What changed in rows between two versions of the raw data. Of a row two hashes and its line are kept, 20 bytes in all.

Python's own 64-bit hash will do: it is never written down, and that any two of two million rows share one has a chance of 1e-7.
"""

import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.formats import as_conversation
from tasks.progress import counted
from tasks.readers import RawLine
from tasks.sections import RowKey

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[np.int64]]

EXAMPLES = 3
_NO_ID = 0
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, check_circular=False).encode


@dataclass(slots=True)
class FileRows:
    """The rows of one file in order. Files of two versions belong together by `name`; `shown` is what a person reads."""

    name: str
    shown: str
    contents: "array[int]" = field(default_factory=lambda: array("q"))
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    lines: "array[int]" = field(default_factory=lambda: array("I"))

    def read(self, rows: Iterable[RawLine], columns: Mapping[RowKey, str]) -> "FileRows":
        """Take the hashes of all `rows`."""
        for row in counted(rows, f"{self.shown}: read", sys.stderr):
            content, identity = hash_row(row.data, columns)
            self.contents.append(content)
            self.ids.append(identity)
            self.lines.append(row.line)
        return self


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one file, or of all. Changed, moved and unchanged ones are counted where they are now."""

    before: int
    after: int
    added: int
    removed: int
    changed: int
    moved: int
    unchanged: int

    def __str__(self) -> str:
        kinds = ("added", "removed", "changed", "moved", "unchanged")
        told = [f"{count} {kind}" for kind in kinds if (count := getattr(self, kind))]
        return f"{self.before} -> {self.after} rows" + (f": {', '.join(told)}" if told else "")


@dataclass(frozen=True, slots=True)
class RowDiff:
    """`files` by name in order; `examples` has the places of the first rows of each kind that is no longer as it was."""

    files: dict[str, Counts]
    total: Counts
    examples: dict[str, list[str]]

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"{name}: {counts}" for name, counts in self.files.items()] if len(self.files) > 1 else []
        told.append(f"all: {self.total}")
        for kind, places in self.examples.items():
            more = getattr(self.total, kind) - len(places)
            told += [f"{kind}:", *(f"  {place}" for place in places)] + ([f"  and {more} more"] if more else [])
        return told

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def hash_row(data: bytes, columns: Mapping[RowKey, str]) -> tuple[int, int]:
    """Hashes of what training would see of a row, in whatever shape it is kept, and of its id; all of a row that is none."""
    try:
        row = as_conversation(json.loads(data.decode()), columns)
    except (ValueError, RecursionError):
        return hash(data), _NO_ID
    if not isinstance(row, dict):
        return hash(_canonical(row)), _NO_ID
    identity = row.get("id")
    keys = ("topic", "group", "messages", "tools")
    content = [row.get(key) or None for key in keys] if "messages" in row else row
    return hash(_canonical(content)), hash(identity) if isinstance(identity, str) else _NO_ID


def compare(old: Sequence[FileRows], new: Sequence[FileRows]) -> RowDiff:
    """Pair the rows of two versions, each row once: by content in its file, then anywhere, by id in its file, then anywhere.

    What has no partner is removed or added.
    """
    import numpy as np

    before, after = _Side(old), _Side(new)
    left, right = np.arange(len(before.files)), np.arange(len(after.files))
    pairs: dict[str, list[tuple[Numbers, Numbers]]] = {"changed": [], "moved": [], "unchanged": []}
    for kind, key in (("unchanged", "contents_here"), ("moved", "contents"), ("changed", "ids_here"), ("changed", "ids")):
        i, j = _matches(before.keys[key][left], after.keys[key][right])
        pairs[kind].append((left[i], right[j]))
        left, right = np.delete(left, i), np.delete(right, j)
    joined = {kind: tuple(np.concatenate(part) for part in zip(*found, strict=True)) for kind, found in pairs.items()}

    names = sorted({file.name for file in (*old, *new)})
    kinds = {
        "before": before.count(names, np.arange(len(before.files))),
        "after": after.count(names, np.arange(len(after.files))),
        "added": after.count(names, right),
        "removed": before.count(names, left),
        **{kind: after.count(names, j) for kind, (_, j) in joined.items()},
    }
    examples = {
        "added": [after.place(j) for j in right[:EXAMPLES]],
        "removed": [before.place(i) for i in left[:EXAMPLES]],
        **{kind: _moves(before, after, *joined[kind]) for kind in ("changed", "moved")},
    }
    return RowDiff(
        files={name: Counts(**{kind: counts[number] for kind, counts in kinds.items()}) for number, name in enumerate(names)},
        total=Counts(**{kind: sum(counts) for kind, counts in kinds.items()}),
        examples={kind: places for kind, places in examples.items() if places},
    )


class _Side:
    """All rows of one version, file after file."""

    def __init__(self, files: Sequence[FileRows]) -> None:
        import numpy as np

        self.all = files
        self.starts = np.cumsum([0, *(len(file.lines) for file in files)])
        self.files = np.repeat(np.arange(len(files)), np.diff(self.starts))
        here = np.array([hash(file.name) for file in files], np.int64)[self.files]
        contents, ids = (
            np.concatenate([np.zeros(0, np.int64), *(np.frombuffer(getattr(file, key), np.int64) for file in files)])
            for key in ("contents", "ids")
        )
        # Both are random numbers, so their exclusive or is a hash of the pair.
        ids_here = np.where(ids == _NO_ID, _NO_ID, ids ^ here)
        self.keys = {"contents": contents, "contents_here": contents ^ here, "ids": ids, "ids_here": ids_here}

    def count(self, names: list[str], rows: "Numbers") -> list[int]:
        """How many of these rows lie in each file."""
        import numpy as np

        counts = dict(zip((file.name for file in self.all), np.bincount(self.files[rows], minlength=len(self.all)), strict=True))
        return [int(counts.get(name, 0)) for name in names]

    def place(self, row: int) -> str:
        number = self.files[row]
        return f"{self.all[number].shown}:{self.all[number].lines[row - self.starts[number]]}"


def _moves(before: _Side, after: _Side, old: "Numbers", new: "Numbers") -> list[str]:
    first = sorted(zip(new.tolist(), old.tolist(), strict=True))[:EXAMPLES]
    return [f"{after.place(j)} (was {before.place(i)})" for j, i in first]


def _matches(old: "Numbers", new: "Numbers") -> "tuple[Numbers, Numbers]":
    """Positions of equal keys, each position once: the first of a key goes with the first, the second with the second."""
    import numpy as np

    _, codes = np.unique(np.concatenate([old, new]), return_inverse=True)
    ours, theirs = (part * len(codes) + _occurrences(part) for part in (codes[: len(old)], codes[len(old) :]))
    _, i, j = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    some = old[i] != _NO_ID
    return i[some], j[some]


def _occurrences(codes: "Numbers") -> "Numbers":
    """For each position how many equal codes stand before it."""
    import numpy as np

    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    counts = np.empty_like(codes)
    counts[order] = np.arange(len(codes)) - np.searchsorted(ordered, ordered)
    return counts
