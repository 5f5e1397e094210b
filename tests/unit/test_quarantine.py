"""Refused rows on disk: one file a reason, no byte lost, the first of each named."""

import base64
import json
from pathlib import Path

from tasks.conversations import Quarantined
from tasks.quarantine import Quarantine


def test_each_reason_has_a_file_with_the_rows_own_bytes(tmp_path: Path) -> None:
    broken = b'{"id": "\xff\xfe'
    with Quarantine(tmp_path / "quarantine") as quarantine:
        quarantine.add([Quarantined("a.jsonl", 1, "not_json", "no value", b"\xe2\x82\xac 5")])
        quarantine.add(
            [Quarantined("a.jsonl", 2, "encoding", "not UTF-8", broken), Quarantined("b.csv", 3, "not_json", "x", b"")]
        )
    written = {
        path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in (tmp_path / "quarantine").iterdir()
    }
    assert written.keys() == {"not_json.jsonl", "encoding.jsonl"}
    assert written["not_json.jsonl"] == [
        {"file": "a.jsonl", "line": 1, "detail": "no value", "raw": "€ 5"},
        {"file": "b.csv", "line": 3, "detail": "x", "raw": ""},
    ]
    (row,) = written["encoding.jsonl"]
    assert base64.b64decode(row["raw_base64"]) == broken
    assert quarantine.rows == 3
    assert quarantine.counts == {"not_json": 2, "encoding": 1}
    assert quarantine.lines() == ["2 not_json, first a.jsonl:1: no value", "1 encoding, first a.jsonl:2: not UTF-8"]


def test_without_rows_there_is_an_empty_folder(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "quarantine") as quarantine:
        quarantine.add([])
    assert list((tmp_path / "quarantine").iterdir()) == []
    assert (quarantine.rows, quarantine.lines()) == (0, [])
