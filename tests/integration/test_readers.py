"""Files of every kind give the same rows, in order and with their places; what cannot be read names file and place."""

import gzip
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import readers
from tasks.errors import DataError
from tasks.readers import RawLine, find_raw_files, read_rows

ROWS = [
    {"id": "1", "question": 'Wo ist "es", bitte?', "answer": "Hier;\ndort, überall."},
    {"id": "2", "question": "배송은 언제 오나요?", "answer": "내일\t와요 🙂"},
    {"id": "3", "question": " leading", "answer": ""},
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(delimiter: str) -> bytes:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    return "".join(delimiter.join(map(quoted, cells)) + "\r\n" for cells in [ROWS[0], *(row.values() for row in ROWS)]).encode()


def parquet(rows: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def zstandard(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return bytes(sink.getvalue())


def read(folder: Path, name: str, data: bytes) -> list[RawLine]:
    path = folder / name
    path.write_bytes(data)
    return list(read_rows(path, name, {}))


FILES: dict[str, tuple[bytes, list[int]]] = {
    "a.jsonl": (jsonl(ROWS), [1, 2, 3]),
    "bom.jsonl": (b"\xef\xbb\xbf" + jsonl(ROWS), [1, 2, 3]),
    "crlf.jsonl": (jsonl(ROWS).replace(b"\n", b"\r\n"), [1, 2, 3]),
    "wide.jsonl": (jsonl(ROWS).decode().encode("utf-16"), [1, 2, 3]),
    "big.jsonl": (b"\xfe\xff" + jsonl(ROWS).decode().encode("utf-16-be"), [1, 2, 3]),
    "array.jsonl": (json.dumps(ROWS, indent=1).encode(), [1, 2, 3]),
    "lines.json": (jsonl(ROWS), [1, 2, 3]),
    "array.json": (json.dumps(ROWS).encode(), [1, 2, 3]),
    "splits.json": (json.dumps({"version": 1, "train": ROWS[:2], "test": ROWS[2:]}, indent=2).encode(), [1, 2, 3]),
    "nested.json": (json.dumps({"data": {"rows": ROWS}}).encode(), [1, 2, 3]),
    "comma.csv": (table(","), [2, 4, 5]),
    "bom.csv": (b"\xef\xbb\xbf" + table(","), [2, 4, 5]),
    "excel.csv": (table(";"), [2, 4, 5]),
    "tabs.tsv": (table("\t"), [2, 4, 5]),
    "table.parquet": (parquet(ROWS), [1, 2, 3]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard])
def test_every_kind_gives_the_same_rows_with_their_places(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    data, places = FILES[name]
    lines = read(tmp_path, name, pack(data))
    assert [json.loads(line.data) for line in lines] == ROWS
    assert [(line.file, line.line) for line in lines] == [(name, place) for place in places]


ONE_ROW = {"id": "1", "messages": [{"role": "user", "content": "q"}, {"content": "a", "role": "assistant"}], "tags": ["x"]}


@pytest.mark.parametrize(
    "row", [ONE_ROW, {"conversations": [{"from": "human", "value": "q"}]}, {"prompt": "q", "completion": "a"}]
)
def test_an_object_that_is_a_conversation_is_one_row(tmp_path: Path, row: Any) -> None:
    (line,) = read(tmp_path, "one.json", json.dumps(row, indent=1).encode())
    assert json.loads(line.data) == row


def test_an_object_that_holds_conversations_is_as_many_rows(tmp_path: Path) -> None:
    rows = read(tmp_path, "many.json", json.dumps({"conversations": [ONE_ROW, ONE_ROW]}).encode())
    assert [json.loads(line.data) for line in rows] == [ONE_ROW, ONE_ROW]


def test_a_line_of_jsonl_comes_as_it_is(tmp_path: Path) -> None:
    assert [line.data for line in read(tmp_path, "a.jsonl", b'{"a": \xff}\n[{"role": 1}]\nnot json')] == [
        b'{"a": \xff}',
        b'[{"role": 1}]',
        b"not json",
    ]


def test_the_instances_of_an_instruction_are_rows_of_its_line(tmp_path: Path) -> None:
    seed = {
        "id": "seed",
        "instruction": "Wann?",
        "instances": [{"input": "heute", "output": "Ja."}, {"input": "", "output": "Nein."}],
    }
    rows = read(tmp_path, "a.jsonl", jsonl([ROWS[0], seed, {"text": 'an "instances" of something'}]))
    assert [row.line for row in rows] == [1, 2, 2, 3]
    assert json.loads(rows[2].data) == {"id": "seed-2", "instruction": "Wann?", "input": "", "output": "Nein."}
    assert rows[0].data + b"\n" == jsonl(ROWS[:1])


def test_a_zero_byte_in_one_row_does_not_make_a_file_binary(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a.jsonl", jsonl(ROWS) + b'{"id": "a\0b"}\n')) == 4


def test_a_cell_that_is_not_utf8_and_a_cell_too_many_are_left_to_the_row_rules(tmp_path: Path) -> None:
    first, second = read(tmp_path, "a.csv", b"Q,A\ncaf\xe9,b\n1,2,3\n\n")
    with pytest.raises(UnicodeDecodeError):
        first.data.decode()
    assert json.loads(second.data) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("cut.json", json.dumps(ROWS).encode()[:-30], "cut.json: not JSON after row 2: "),
        ("cut.csv", b'Q,A\n1,2\n"open,', "cut.csv:3: not CSV: unexpected end of data"),
        ("cut.parquet", parquet(ROWS)[:-9], "cut.parquet: not Parquet after row 0: "),
        ("cut.jsonl.gz", gzip.compress(jsonl(ROWS))[:-9], "cut.jsonl.gz: cannot be read: Compressed file ended"),
        ("bad.jsonl.gz", gzip.compress(b"")[:10] + b"\xff" * 300, "bad.jsonl.gz: cannot be read: Error -3"),
        ("deep.json", b"[" * 20_000, "deep.json: not JSON after row 0: "),
        ("deeper.json", b"[" * 20_000 + b"]" * 20_000, "deeper.json: not JSON after row 1: maximum recursion depth"),
        ("cut.jsonl.zst", zstandard(jsonl(ROWS * 9))[:-9], "cut.jsonl.zst: cannot be read: "),
        ("image.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image.jsonl: a binary file, not text (a zero byte at 9)"),
        ("wide.csv", "Q,A\n".encode("utf-16-le"), "wide.csv: a binary file"),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" not in value else "",  # else the bytes are in the test's name
)
def test_what_cannot_be_read_names_the_file_and_the_place(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, data)
    assert words in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(FILES)), pack=st.sampled_from([bytes, gzip.compress, zstandard]), data=st.data())
def test_a_damaged_file_gives_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, pack: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    whole = pack(FILES[name][0])
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 20)))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    with suppress(DataError):
        assert all(line.file == name and line.line > 0 for line in read(tmp_path_factory.getbasetemp(), name, damaged))


def test_rows_before_the_place_were_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_bytes(json.dumps(ROWS).encode()[:-30])
    digests: dict[str, str] = {}
    rows = read_rows(path, "cut.json", digests)
    assert [json.loads(next(rows).data)["id"], json.loads(next(rows).data)["id"]] == ["1", "2"]
    with pytest.raises(DataError):
        next(rows)
    assert not digests


def test_a_line_that_is_too_long_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 1 << 20)
    with pytest.raises(DataError, match=r"long\.jsonl:2: a line of more than 1 MiB"):
        read(tmp_path, "long.jsonl", b"{}\n" + b"x" * (2 << 20))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, b"") == []


def test_lines_are_numbered_as_an_editor_does_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n\n  \t\n\xe2\x80\xa8x\nlast")
    digests: dict[str, str] = {}
    lines = list(read_rows(path, "a", digests))
    assert lines == [RawLine("a", 1, b"{}"), RawLine("a", 4, b"\xe2\x80\xa8x"), RawLine("a", 5, b"last")]
    assert len(digests["a"]) == 64


def test_raw_files_are_found_below_and_sorted(tmp_path: Path) -> None:
    for name in ("b.JSONL", "a/z.csv.gz", "a.jsonl", "notes.md", "c/d/e.parquet", "x.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_raw_files(tmp_path)]
    assert found == ["a.jsonl", "a/z.csv.gz", "b.JSONL", "c/d/e.parquet"]


def test_no_folder_and_no_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        find_raw_files(tmp_path / "absent")
    (tmp_path / "chats.docx").touch()
    with pytest.raises(DataError, match=r"no file of conversations \(\*\.jsonl, .*\), found chats\.docx"):
        find_raw_files(tmp_path)


def test_a_folder_that_cannot_be_listed_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "locked").mkdir()

    original = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(DataError, match="locked: cannot be listed: Permission denied"):
        find_raw_files(tmp_path)


def test_a_dangling_link_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "absent")
    (path,) = find_raw_files(tmp_path)
    with pytest.raises(DataError, match=r"data/a\.jsonl: cannot be read: No such file"):
        list(read_rows(path, "data/a.jsonl", {}))
