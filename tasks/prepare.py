"""Accepted conversations -> train, eval and test split: duplicates dropped, each row always in the same split.

python -m tasks.prepare
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import DataError, StageInputError
from tasks.files import sha256_file, write_jsonl
from tasks.params import Params, Prepare
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import PreparedDataset, SplitStatistics
from tasks.tables import ROW_GROUP, TableWriter

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "eval", "test")
_KEYS = ("id", "source", "group", "prompt_hash", "content_hash")


def prepare(section: Prepare, accepted: Path, target: Path, record: Path) -> PreparedDataset:
    """Write {train,eval,test}.parquet and dropped.jsonl below `target`, then the record.

    Each split has the columns of the accepted rows and `cluster`, what decides its split (see `cluster_of`). Only a few scalars
    of each row are in memory at once.

    Raises:
        StageInputError: the accepted rows are missing.
        DataError: a split would be empty.
    """
    rows = _read_keys(accepted)
    n_accepted = len(rows["id"])
    clusters = [cluster_of(group, prompt) for group, prompt in zip(rows["group"], rows["prompt_hash"], strict=True)]
    dropped = _duplicates(rows)
    places = [None if row in dropped else split_of(cluster, section) for row, cluster in enumerate(clusters)]
    if empty := [name for name in SPLITS if name not in places]:
        raise DataError(
            f"{n_accepted - len(dropped)} rows left the {' and '.join(empty)} split empty; "
            "add data or change prepare.eval_fraction and prepare.test_fraction"
        )
    statistics = _write_splits(accepted, target, places, clusters)
    write_jsonl(target / "dropped.jsonl", (_drop(rows, row, reason, other) for row, (reason, other) in dropped.items()))
    return PreparedDataset(
        accepted_sha256=sha256_file(accepted),
        n_accepted=n_accepted,
        n_duplicates=len(dropped),
        splits=statistics,
        files={path.name: sha256_file(path) for path in sorted(target.iterdir())},
    ).write(record)


def cluster_of(group: str, prompt_hash: str) -> str:
    """What rows of one split have in common: their group, or the normalised text of all messages before the last reply."""
    return hashlib.sha256(f"group:{group}".encode()).hexdigest() if group else prompt_hash


def split_of(cluster: str, section: Prepare) -> str:
    """The split of a cluster: its salted hash as a number in [0, 1) against the fractions. Growth of the data moves no row."""
    digest = hashlib.sha256(f"{section.split_salt}:{cluster}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < section.test_fraction:
        return "test"
    return "eval" if place < section.test_fraction + section.eval_fraction else "train"


def _read_keys(accepted: Path) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    if not accepted.is_file():
        raise StageInputError(f"{accepted}: missing, so the stage validate has not finished; run `dvc repro` or `refit run`")
    table = pq.read_table(accepted, columns=list(_KEYS))
    return {name: table[name].to_pylist() for name in _KEYS}


def _duplicates(rows: dict[str, list[str]]) -> dict[int, tuple[str, int]]:
    """Numbers of rows with the text of an earlier one, each with the reason and that row's number."""
    first: dict[str, int] = {}
    found = {}
    for row, content in enumerate(rows["content_hash"]):
        if (original := first.setdefault(content, row)) != row:
            found[row] = ("duplicate", original)
    return found


def _drop(rows: dict[str, list[str]], row: int, reason: str, other: int) -> dict[str, str]:
    return {"id": rows["id"][row], "source": rows["source"][row], "reason": reason, "duplicate_of": rows["source"][other]}


def _write_splits(
    accepted: Path, target: Path, places: Sequence[str | None], clusters: Sequence[str]
) -> dict[str, SplitStatistics]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(accepted)
    schema = file.schema_arrow.append(pa.field("cluster", pa.string(), nullable=False))
    totals = {name: _Totals() for name in SPLITS}
    with ExitStack() as stack:
        writers = {name: stack.enter_context(TableWriter(target / f"{name}.parquet", schema)) for name in SPLITS}
        for start, table in _batches(file):
            here = slice(start, start + table.num_rows)
            table = table.append_column(schema.field("cluster"), pa.array(clusters[here], pa.string()))
            for name, writer in writers.items():
                part = table.filter(pa.array([place == name for place in places[here]]))
                writer.write(part)
                totals[name].add(part)
    return {name: total.statistics() for name, total in totals.items()}


def _batches(file: Any) -> Iterator[tuple[int, "pa.Table"]]:
    """Each row group with the number of its first row."""
    import pyarrow as pa

    start = 0
    for batch in file.iter_batches(ROW_GROUP):
        yield start, pa.Table.from_batches([batch])
        start += batch.num_rows


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
    return prepare(params.prepare, workspace.accepted, workspace.prepared, workspace.record("prepare"))


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
