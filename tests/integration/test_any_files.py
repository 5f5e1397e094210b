"""Files of every format through validate and prepare: no row is lost, nothing crashes, and only what the rows say matters."""

import csv
import gzip
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import validate as stage
from tasks.errors import DataError
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.prepare import SPLITS, prepare
from tasks.records import PreparedDataset, ValidationReport

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


def as_jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[Row], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "question", "answer"], delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        turns = row["messages"]
        writer.writerow({"id": row["id"], "question": turns[0]["content"], "answer": turns[-1]["content"]})
    return out.getvalue().encode()


def as_parquet(rows: list[Row]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def zstandard(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    packed: bytes = out.getvalue().to_pybytes()
    return packed


FORMATS: dict[str, Callable[[list[Row]], bytes]] = {
    "a.jsonl": as_jsonl,
    "b.json": lambda rows: json.dumps(rows).encode(),
    "c.json": lambda rows: json.dumps({"train": rows[:1], "test": rows[1:]}).encode(),
    "d.csv": as_csv,
    "e.tsv": lambda rows: as_csv(rows, "\t"),
    "f.parquet": as_parquet,
    "g.ndjson.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "h.csv.zst": lambda rows: zstandard(as_csv(rows)),
    "i.jsonl": lambda rows: ("\ufeff" + as_jsonl(rows).decode()).encode("utf-16-le"),
    "j.jsonl": lambda rows: as_jsonl(rows).replace(b"\n", b"\r\n"),
}
# What no row rule refuses, and what some of them do; nothing that a CSV file cannot carry.
TEXTS = st.one_of(
    st.integers(0, 40).map(lambda number: " ".join(random.Random(number).choices("abcdefghij", k=12)) + f" w{number}"),
    st.sampled_from(
        ["주문 취소는 어떻게 하나요", "注文をキャンセル", "", "{{name}}", "<|im_end|>", "me@example.org", "\ufffd", "ok"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, list[Row]]:
    """Rows by file, their ids unique; one row in between may be a repetition."""
    turns = st.tuples(TEXTS, TEXTS)
    files = draw(st.dictionaries(st.sampled_from(sorted(FORMATS)), st.lists(turns, min_size=1, max_size=8), min_size=1))
    return {
        name: [
            {
                "id": f"{name}-{number}",
                "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}],
            }
            for number, (asked, told) in enumerate(rows)
        ]
        for name, rows in files.items()
    }


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> Params:
    """Without guidelines and limits; Great Expectations, which has tests of its own and takes a second, is left out."""
    monkeypatch.setattr(stage, "check", lambda *_: [])
    shipped = load_params(ROOT / "params.yaml")
    validation = shipped.validation.model_copy(update={"max_unreadable_files": 99, "max_length": 2000})
    split = shipped.prepare.model_copy(update={"test_fraction": 0.3, "eval_fraction": 0.3})
    return shipped.model_copy(update={"validation": validation, "guidelines": None, "prepare": split})


class Outcome:
    """What validate and prepare leave of one folder of files; `prepared` is None where a split would be empty."""

    def __init__(self, root: Path, base: Path, files: dict[str, bytes], params: Params) -> None:
        shutil.rmtree(root, ignore_errors=True)
        self.workspace = Workspace(root)
        (root / "data/raw").mkdir(parents=True)
        (root / "data/base").symlink_to(base)
        for name, data in files.items():
            (root / "data/raw" / name).write_bytes(data)
        self.validated: ValidationReport | None = None
        self.prepared: PreparedDataset | None = None
        try:
            self.validated = stage.validate(params.validation, None, self.workspace)
            target, record = self.workspace.prepared, self.workspace.record("prepare")
            self.prepared = prepare(params.prepare, self.workspace.accepted, target, record)
        except DataError as error:
            assert "none of" in str(error) or "split empty" in str(error), error  # noqa: PT017, other errors are as wrong

    def quarantined(self) -> list[Row]:
        files = sorted(self.workspace.quarantine.iterdir())
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def placed(self) -> dict[str, str]:
        """The id of every accepted row with its split, or why it was dropped."""
        dropped = [json.loads(line) for line in (self.workspace.prepared / "dropped.jsonl").read_text().splitlines()]
        splits = {name: pq.read_table(self.workspace.prepared / f"{name}.parquet")["id"].to_pylist() for name in SPLITS}
        named = [(row, name) for name, rows in splits.items() for row in rows] + [(row["id"], row["reason"]) for row in dropped]
        assert len(named) == len(dict(named)), "a row in two places"
        return dict(named)

    def content(self) -> dict[str, set[str]]:
        """The content hashes of each split."""
        folder = self.workspace.prepared
        return {name: set(pq.read_table(folder / f"{name}.parquet")["content_hash"].to_pylist()) for name in SPLITS}


EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EXAMPLES
@given(folder=folders())
def test_no_row_is_lost_and_the_sums_are_right(
    tmp_path: Path, tiny_base: Path, params: Params, folder: dict[str, list[Row]]
) -> None:
    found = Outcome(tmp_path / "one", tiny_base, {name: FORMATS[name](rows) for name, rows in folder.items()}, params)
    given_ids = {row["id"] for rows in folder.values() for row in rows}
    refused = found.quarantined()
    assert all(row["detail"] for row in refused)
    if found.validated is None:
        assert len(refused) == len(given_ids)
        return
    assert found.validated.n_raw == len(given_ids) == found.validated.n_accepted + found.validated.n_quarantined
    assert found.validated.n_quarantined == len(refused) == sum(found.validated.reasons.values())
    if found.prepared is None:
        return
    assert found.prepared.n_accepted == found.validated.n_accepted
    counts = Counter(found.placed().values())
    assert {name: split.rows for name, split in found.prepared.splits.items()} == {name: counts[name] for name in SPLITS}
    assert found.prepared.dropped == {reason: counts[reason] for reason in found.prepared.dropped}
    kept_ids = set(found.placed())
    assert len(kept_ids) + len(refused) == len(given_ids)
    assert kept_ids < given_ids or not refused


@EXAMPLES
@given(folder=folders(), order=st.randoms(use_true_random=False))
def test_the_same_rows_give_the_same_bytes_and_the_order_of_files_changes_no_split(
    tmp_path: Path, tiny_base: Path, params: Params, folder: dict[str, list[Row]], order: random.Random
) -> None:
    files = {name: FORMATS[name](rows) for name, rows in folder.items()}
    first = Outcome(tmp_path / "one", tiny_base, files, params)
    again = Outcome(tmp_path / "two", tiny_base, dict(sorted(files.items(), reverse=True)), params)
    assert first.validated == again.validated
    assert first.prepared == again.prepared
    prefixes = order.sample(range(10, 99), len(files))
    renamed = {f"{prefix}-{name}": data for prefix, (name, data) in zip(prefixes, files.items(), strict=True)}
    third = Outcome(tmp_path / "three", tiny_base, renamed, params)
    if first.prepared is None or first.prepared.dropped["near_duplicate"]:
        return
    assert third.content() == first.content()


@EXAMPLES
@given(folder=folders(), garbage=st.binary(min_size=1, max_size=60), name=st.sampled_from(sorted(FORMATS)))
def test_a_file_of_garbage_costs_no_row_of_another_file(
    tmp_path: Path, tiny_base: Path, params: Params, folder: dict[str, list[Row]], garbage: bytes, name: str
) -> None:
    files = {name: FORMATS[name](rows) for name, rows in folder.items()}
    clean = Outcome(tmp_path / "one", tiny_base, files, params)
    spoilt = Outcome(tmp_path / "two", tiny_base, files | {f"z-{name}": garbage}, params)
    place = f"data/raw/z-{name}"
    others = [row for row in spoilt.quarantined() if row["file"] != place]
    assert others == clean.quarantined()
    if clean.validated is not None and spoilt.validated is not None:
        from_garbage = [source for source in _sources(spoilt.workspace) if source.startswith(f"{place}:")]
        assert spoilt.validated.n_accepted - len(from_garbage) == clean.validated.n_accepted


def _sources(workspace: Workspace) -> list[str]:
    sources: list[str] = pq.read_table(workspace.accepted)["source"].to_pylist()
    return sources
