"""Accepted conversations -> train, eval and test split: duplicates dropped, tokenised once, each row always in the same split.

python -m tasks.prepare
"""

import hashlib
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.chat import Message, encode, load_tokenizer
from tasks.environment import work_offline
from tasks.errors import DataError, StageInputError
from tasks.files import sha256_file, sha256_json, write_jsonl
from tasks.params import Params, Prepare
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import PreparedDataset, SplitStatistics

SPLITS = ("train", "eval", "test")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
Row = dict[str, Any]


def prepare(section: Prepare, accepted: Path, base: Path, target: Path, record: Path) -> PreparedDataset:
    """Write {train,eval,test}.parquet and dropped.jsonl below `target`, then the record.

    Each split has the columns of the accepted rows plus `input_ids`, `labels` (list<int32>, -100 where the loss does not count)
    and `cluster`, the hash of the normalised prompt that decides the split.

    Raises:
        StageInputError: the accepted rows or the tokenizer are missing.
        DataError: a split would be empty.
    """
    work_offline()
    rows = _read(accepted)
    kept, dropped = _drop_duplicates(rows)
    tokenizer = load_tokenizer(base)
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in kept:
        row["cluster"] = cluster_of(row["messages"])
        row |= encode(row["messages"], tokenizer)
        splits[split_of(row["cluster"], section)].append(row)
    if empty := [name for name, members in splits.items() if not members]:
        raise DataError(
            f"{len(kept)} rows left the {' and '.join(empty)} split empty; "
            "add data or change prepare.eval_fraction and prepare.test_fraction"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name, members in splits.items():
        _write(target / f"{name}.parquet", members)
    write_jsonl(target / "dropped.jsonl", dropped)
    return PreparedDataset(
        accepted_sha256=sha256_file(accepted),
        tokenizer_digest=sha256_json({name: sha256_file(base / name) for name in _TOKENIZER_FILES if (base / name).is_file()}),
        n_accepted=len(rows),
        n_duplicates=len(dropped),
        splits={name: _statistics(members) for name, members in splits.items()},
        files={path.name: sha256_file(path) for path in sorted(target.iterdir())},
    ).write(record)


def cluster_of(messages: list[Message]) -> str:
    """sha256 of the normalised text of all messages before the last reply: rows that share a prompt share a split."""
    return _hash(messages[:-1])


def split_of(cluster: str, section: Prepare) -> str:
    """The split of a cluster: its salted hash as a number in [0, 1) against the fractions. Growth of the data moves no row."""
    digest = hashlib.sha256(f"{section.split_salt}:{cluster}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < section.test_fraction:
        return "test"
    return "eval" if place < section.test_fraction + section.eval_fraction else "train"


def normalise(text: str) -> str:
    """Text without what does not make a difference: case, punctuation, blanks, compatibility forms (Unicode NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_BLANKS).split())


class _Blanks(dict[int, str]):
    """For str.translate: a blank for all but letters, digits, `_`, and the marks that are vowels in Indic and other scripts."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        keeps = character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
        self[code] = character if keeps else " "
        return self[code]


_BLANKS = _Blanks()


def _hash(messages: list[Message]) -> str:
    return sha256_json([[message["role"], normalise(message["content"])] for message in messages])


def _drop_duplicates(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    first: dict[str, Row] = {}
    dropped = []
    for row in rows:
        original = first.setdefault(_hash(row["messages"]), row)
        if original is not row:
            same = original["messages"] == row["messages"]
            reason = "duplicate" if same else "near_duplicate"
            dropped.append({"id": row["id"], "source": row["source"], "reason": reason, "duplicate_of": original["source"]})
    return list(first.values()), dropped


def _read(accepted: Path) -> list[Row]:
    import pyarrow.parquet as pq

    if not accepted.is_file():
        raise StageInputError(f"{accepted}: missing, so the stage validate has not finished; run `dvc repro` or `refit run`")
    rows: list[Row] = pq.read_table(accepted).to_pylist()
    return rows


def _write(path: Path, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    for name in ("input_ids", "labels"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.list_(pa.int32())))
    pq.write_table(table, path)


def _statistics(rows: list[Row]) -> SplitStatistics:
    lengths = [len(row["input_ids"]) for row in rows]
    return SplitStatistics(
        rows=len(rows),
        messages=sum(len(row["messages"]) for row in rows),
        tokens=sum(lengths),
        supervised_tokens=sum(1 for label in _labels(rows) if label != -100),
        max_tokens=max(lengths),
    )


def _labels(rows: list[Row]) -> Iterator[int]:
    for row in rows:
        yield from row["labels"]


def _run(workspace: Workspace, params: Params) -> PreparedDataset:
    return prepare(params.prepare, workspace.accepted, workspace.base, workspace.prepared, workspace.record("prepare"))


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
