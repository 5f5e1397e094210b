"""Scores of single items as `evaluate` writes them and `gate` reads them: data/scores/ROLE/items.parquet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import StageInputError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Item(NamedTuple):
    """One score of one item, a row of items.parquet. `hash` is of item, prompt and target; slices are empty where unknown."""

    suite: str
    task: str
    item: str
    hash: str
    cluster: str
    topic: str
    language: str
    length: str
    metric: str
    higher_is_better: bool
    value: float


SLICES = ("topic", "language", "length")
COLUMNS = tuple(name for name in Item._fields if name != "hash")
"""What the rules read; `hash` is in the record's `items_sha256`."""
TEXT_COLUMNS = COLUMNS[:-2]
TARGET, TARGET_LOSS = "target", "target_loss"
"""The tasks that are made of the test split: a generated reply, and the loss of the one that is there."""

Key = tuple[str, str, str]
"""(suite, task, metric)"""


@dataclass(frozen=True, slots=True)
class ItemScores:
    """One metric of one task: parallel arrays, sorted by item, so that two models' scores are paired by position."""

    items: "NDArray[Any]"
    clusters: "NDArray[Any]"
    values: "NDArray[Any]"
    higher_is_better: bool
    slices: "dict[str, NDArray[Any]]"

    @classmethod
    def of(
        cls, items: Any, clusters: Any, values: Any, higher_is_better: bool = True, slices: Mapping[str, Any] | None = None
    ) -> "ItemScores":
        """From parallel sequences in any order; `slices` by name, empty texts where left out."""
        import numpy as np

        names, groups = np.asarray(items, dtype=str), np.asarray(clusters, dtype=str)
        numbers = np.asarray(values, dtype=np.float64)
        order = np.lexsort((numbers, groups, names))
        empty = np.full(len(names), "")
        parts = {name: np.asarray((slices or {}).get(name, empty), dtype=str)[order] for name in SLICES}
        return cls(names[order], groups[order], numbers[order], higher_is_better, parts)


Scores = dict[Key, ItemScores]
"""Everything that was scored of one model; empty where there is no such model."""


def read_scores(path: Path) -> Scores:
    """Read items.parquet: one row for each (suite, task, item, metric), values as they are, NaN and duplicates included.

    Raises:
        StageInputError: the file is missing, lacks a column, has an empty name, or calls one metric both better and worse
            when higher.
    """
    import pandas as pd

    again = f"score this model again: `dvc repro --force --single-item evaluate@{path.parent.name}`"
    try:
        rows = pd.read_parquet(path)
    except FileNotFoundError:
        raise StageInputError(f"{path}: missing; {again}") from None
    except (OSError, ValueError) as error:
        raise StageInputError(f"{path}: not a Parquet file ({one_line(error)}); {again}") from None
    if missing := [name for name in COLUMNS if name not in rows.columns]:
        raise StageInputError(f"{path}: lacks the columns {', '.join(missing)}; {again}")
    if rows[[*TEXT_COLUMNS, "higher_is_better"]].isna().any(axis=None):
        raise StageInputError(f"{path}: a name or higher_is_better is empty; {again}")
    scores: Scores = {}
    for (suite, task, metric), group in rows.groupby(["suite", "task", "metric"], sort=True):
        if group["higher_is_better"].nunique() != 1:
            raise StageInputError(f"{path}: {suite}/{task}/{metric} is both better and worse when higher; {again}")
        better = bool(group["higher_is_better"].iloc[0])
        scores[str(suite), str(task), str(metric)] = ItemScores.of(
            group["item"], group["cluster"], group["value"], better, {name: group[name] for name in SLICES}
        )
    return scores


def target_hashes(path: Path) -> list[str]:
    """The hashes of the items of the target suite in items.parquet, which `read_scores` has read before."""
    import pyarrow.parquet as pq

    found: list[str] = pq.read_table(path, columns=["hash"], filters=[("suite", "=", "target")])["hash"].to_pylist()
    return found
