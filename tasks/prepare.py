"""Accepted conversations -> train, eval and test split: repetitions and leaks dropped, each row always in the same split.

python -m tasks.prepare
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.contamination import contaminated
from tasks.dataset_card import dataset_card
from tasks.dedupe import conflicts, near_duplicates
from tasks.errors import DataError, StageInputError
from tasks.files import sha256_file, write_atomic, write_jsonl
from tasks.parallel import map_threads
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.progress import counted
from tasks.records import PreparedDataset, SplitStatistics
from tasks.sections import Prepare
from tasks.tables import ROW_GROUP, TableWriter

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "eval", "test")
REASONS = ("duplicate", "near_duplicate", "contaminated", "replay_surplus")
SMALL = 50_000
"""Rows up to which a second process would cost more time than it saves."""
_KEYS = ("id", "source", "group", "replay", "prompt_hash", "content_hash", "text")
Rows = dict[str, list[Any]]


class Drop(NamedTuple):
    """Why a row is in no split: what it repeats (the place of a row, the name of an item, nothing), and how much of it."""

    reason: str
    of: str
    similarity: float


def prepare(
    section: Prepare, accepted: Path, target: Path, record: Path, protected: Iterable[tuple[str, str]] = ()
) -> PreparedDataset:
    """Write {train,eval,test}.parquet, dropped.jsonl, conflicts.jsonl and a dataset card below `target`, then the record.

    Each split has the columns of the accepted rows but `text`, and `cluster`, what decides its split (see `cluster_of`). Of rows
    that repeat each other the first of the test split stays, else of the eval split, else of the train split, so that what is
    dropped is what could leak. Keys and normalised texts of all rows are in memory, tokens are not.

    Args:
        section: The parameters.
        accepted: The result of validate.
        target: Folder of the results.
        record: Path of the record.
        protected: Name and normalised text of items of other suites that training rows may not contain.

    Raises:
        StageInputError: the accepted rows are missing.
        DataError: a split would be empty.
    """
    rows = _read_keys(accepted)
    n_accepted = len(rows["id"])
    clusters = [cluster_of(group, prompt) for group, prompt in zip(rows["group"], rows["prompt_hash"], strict=True)]
    splits = ["train" if replay else split_of(cluster, section) for replay, cluster in zip(rows["replay"], clusters, strict=True)]
    dropped = _repetitions(rows, splits, section.near_duplicate_threshold, 1 if n_accepted <= SMALL else None)
    dropped |= _leaks(rows, splits, dropped, protected, section.contamination_threshold)
    dropped |= _surplus(rows, splits, dropped, section)
    places = [None if row in dropped else split for row, split in enumerate(splits)]
    if empty := [name for name in SPLITS if name not in places]:
        raise DataError(
            f"{n_accepted - len(dropped)} rows left the {' and '.join(empty)} split empty; "
            "add data or change prepare.eval_fraction and prepare.test_fraction"
        )
    statistics = _write_splits(accepted, target, places, clusters)
    write_jsonl(target / "dropped.jsonl", (_line(rows, row) | dropped[row]._asdict() for row in sorted(dropped)))
    differing = conflicts(rows["prompt_hash"], rows["content_hash"])
    write_jsonl(target / "conflicts.jsonl", ([_line(rows, row) for row in conflict.rows] for conflict in differing))
    counts = Counter(drop.reason for drop in dropped.values())
    facts: dict[str, Any] = {
        "accepted_sha256": sha256_file(accepted),
        "n_accepted": n_accepted,
        "splits": statistics,
        "dropped": {reason: counts[reason] for reason in REASONS},
        "n_conflicts": len(differing),
        "n_replayed": sum(replay and place is not None for replay, place in zip(rows["replay"], places, strict=True)),
    }
    write_atomic(target / "README.md", dataset_card(section, **facts).encode())
    return PreparedDataset(**facts, files={path.name: sha256_file(path) for path in sorted(target.iterdir())}).write(record)


def cluster_of(group: str, prompt_hash: str) -> str:
    """What rows of one split have in common, as a hash: their group, or the normalised messages before the last reply."""
    return group or prompt_hash


def split_of(cluster: str, section: Prepare) -> str:
    """The split of a cluster: its salted hash as a number in [0, 1) against the fractions. Growth of the data moves no row."""
    place = int.from_bytes(_salted(cluster, section)[:8], "big") / 2**64
    if place < section.test_fraction:
        return "test"
    return "eval" if place < section.test_fraction + section.eval_fraction else "train"


def _salted(key: str, section: Prepare) -> bytes:
    return hashlib.sha256(f"{section.split_salt}:{key}".encode()).digest()


def _read_keys(accepted: Path) -> Rows:
    import pyarrow.parquet as pq

    if not accepted.is_file():
        raise StageInputError(f"{accepted}: missing, so the stage validate has not finished; run `dvc repro` or `refit run`")
    table = pq.read_table(accepted, columns=list(_KEYS))
    return {name: table[name].to_pylist() for name in _KEYS}


def _repetitions(rows: Rows, splits: Sequence[str], threshold: float, processes: int | None) -> dict[int, Drop]:
    """Rows that say the same or nearly the same as one that stays."""
    order = [row for name in reversed(SPLITS) for row, split in enumerate(splits) if split == name]
    first: dict[str, int] = {}
    dropped = {}
    for row in order:
        if (original := first.setdefault(rows["content_hash"][row], row)) != row:
            dropped[row] = Drop("duplicate", rows["source"][original], 1.0)
    single = list(first.values())
    texts = counted((rows["text"][row] for row in single), "looked for near duplicates in")
    for found in near_duplicates(texts, threshold, processes):
        dropped[single[found.row]] = Drop("near_duplicate", rows["source"][single[found.of]], round(found.similarity, 4))
    return dropped


def _leaks(
    rows: Rows,
    splits: Sequence[str],
    dropped: dict[int, Drop],
    protected: Iterable[tuple[str, str]],
    threshold: float,
) -> dict[int, Drop]:
    """Training rows that hold the text of a test row or of an item of another suite."""
    members: dict[str, list[int]] = {name: [] for name in SPLITS}
    for row, split in enumerate(splits):
        if row not in dropped:
            members[split].append(row)
    scored = [(rows["source"][row], rows["text"][row]) for row in members["test"]]
    train = members["train"]
    texts = counted((rows["text"][row] for row in train), "looked for leaks in")
    leaks = contaminated(texts, [*scored, *protected], threshold)
    return {train[leak.row]: Drop("contaminated", leak.of, round(leak.overlap, 4)) for leak in leaks}


def _surplus(rows: Rows, splits: Sequence[str], dropped: dict[int, Drop], section: Prepare) -> dict[int, Drop]:
    """Replayed rows beyond their share of the train split: where the others grow, more of them come in."""
    train = [row for row, split in enumerate(splits) if split == "train" and row not in dropped]
    replayed = [row for row in train if rows["replay"][row]]
    room = floor((len(train) - len(replayed)) * section.replay_share / (1 - section.replay_share) + 1e-9)
    in_order = sorted(replayed, key=lambda row: _salted(rows["content_hash"][row], section))
    return {row: Drop("replay_surplus", "", 0.0) for row in in_order[room:]}


def _line(rows: Rows, row: int) -> dict[str, Any]:
    return {"id": rows["id"][row], "source": rows["source"][row]}


def _write_splits(
    accepted: Path, target: Path, places: Sequence[str | None], clusters: Sequence[str]
) -> dict[str, SplitStatistics]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(accepted)
    columns = [name for name in file.schema_arrow.names if name != "text"]
    cluster = pa.field("cluster", pa.string(), nullable=False)

    def parts(group: int) -> dict[str, pa.Table]:
        """The rows of each split in one row group."""
        table = pq.ParquetFile(accepted).read_row_group(group, columns)
        here = slice(group * ROW_GROUP, group * ROW_GROUP + table.num_rows)
        table = table.append_column(cluster, pa.array(clusters[here], pa.string()))
        return {name: table.filter(pa.array([place == name for place in places[here]])) for name in SPLITS}

    schema = pa.schema([*map(file.schema_arrow.field, columns), cluster])
    totals = {name: _Totals() for name in SPLITS}
    with ExitStack() as stack:
        writers = {name: stack.enter_context(TableWriter(target / f"{name}.parquet", schema)) for name in SPLITS}
        for group in map_threads(parts, range(file.num_row_groups)):
            for name, part in group.items():
                writers[name].write(part)
                totals[name].add(part)
    return {name: total.statistics() for name, total in totals.items()}


class _Totals:
    """What is counted while a split is written."""

    def __init__(self) -> None:
        self.rows = self.messages = self.tokens = self.supervised = self.longest = 0

    def add(self, table: "pa.Table") -> None:
        import pyarrow.compute as pc

        self.rows += table.num_rows
        self.messages += pc.sum(table["n_messages"]).as_py() or 0
        self.tokens += pc.sum(table["n_tokens"]).as_py() or 0
        self.supervised += pc.sum(pc.not_equal(pc.list_flatten(table["labels"]), -100)).as_py() or 0
        self.longest = max(self.longest, pc.max(table["n_tokens"]).as_py() or 0)

    def statistics(self) -> SplitStatistics:
        return SplitStatistics(
            rows=self.rows,
            messages=self.messages,
            tokens=self.tokens,
            supervised_tokens=self.supervised,
            max_tokens=self.longest,
        )


def _run(workspace: Workspace, params: Params) -> PreparedDataset:
    return prepare(
        params.prepare, workspace.accepted, workspace.prepared, workspace.record("prepare"), _protected(workspace.suites)
    )


def _protected(items: Path) -> list[tuple[str, str]]:
    import pyarrow.parquet as pq

    if not items.is_file():
        raise StageInputError(f"{items}: missing, so the stage suites has not finished; run `dvc repro` or `refit run`")
    table = pq.read_table(items)
    return list(zip(table["item"].to_pylist(), table["text"].to_pylist(), strict=True))


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
