import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import files

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), children, max_size=3)
    ),
    max_leaves=8,
)


def test_a_file_larger_than_one_block_hashes_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"a" * 1_000_000)
    # FIPS 180-2, appendix B.3: a million times "a"
    assert files.sha256_file(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    path.write_bytes(b"a" * (1 << 20) + b"b")
    longer = files.sha256_file(path)
    path.write_bytes(b"a" * (1 << 20) + b"c")
    assert files.sha256_file(path) != longer
    path.write_bytes(b"")
    assert files.sha256_file(path) == EMPTY_SHA256


@settings(max_examples=40)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_change_a_json_hash(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert files.sha256_json(value) == files.sha256_json(backwards)
    assert files.sha256_json(value) != files.sha256_json([*value.items()])


def test_a_tree_digest_covers_names_contents_and_depth(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("same")
    (tmp_path / "deep" / "a.txt").write_text("same")
    (tmp_path / "empty folders do not count").mkdir()
    assert list(files.hash_tree(tmp_path)) == ["b.txt", "deep/a.txt"]

    before = files.tree_digest(tmp_path)
    (tmp_path / "deep" / "a.txt").rename(tmp_path / "deep" / "c.txt")
    renamed = files.tree_digest(tmp_path)
    (tmp_path / "deep" / "c.txt").write_text("other")
    changed = files.tree_digest(tmp_path)
    (tmp_path / "deep" / "c.txt").unlink()
    assert len({before, renamed, changed, files.tree_digest(tmp_path)}) == 4


def test_an_equal_tree_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_bytes(b"\x00")
    assert files.tree_digest(tmp_path / "one") == files.tree_digest(tmp_path / "two")


def test_write_makes_folders_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "record.json"
    files.write_atomic(path, b"first")
    files.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "record.json"
    files.write_atomic(path, b"old")

    def disk_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", disk_full) if step == "fsync" else (Path, "replace", disk_full)))
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        order.append("fsync")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    files.write_atomic(tmp_path / "x", b"x")
    assert order == ["fsync", "replace"]


@settings(max_examples=40)  # each waits for the disk
@given(json_values)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert json.loads(path.read_bytes()) == value
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused_and_change_nothing(tmp_path: Path, number: float) -> None:
    for name, write in (("a.json", files.write_json), ("a.jsonl", lambda path, value: files.write_jsonl(path, [{}, value]))):
        path = tmp_path / name
        path.write_text("old")
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, {"loss": number})
        assert path.read_text() == "old"


def test_jsonl_keeps_a_line_a_row_whatever_the_row_contains(tmp_path: Path) -> None:
    rows = [{"text": "two\nlines\r\x85\u2028"}, {"text": "ünï 🙂"}, {"text": "lone surrogate \ud800"}, []]
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, iter(rows))
    lines = path.read_bytes().decode("utf-8", "surrogatepass").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == rows


def test_rows_that_break_off_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, [1])

    def breaks_off() -> Any:
        yield 2
        raise RuntimeError("source ended")

    with pytest.raises(RuntimeError, match="source ended"):
        files.write_jsonl(path, breaks_off())
    assert path.read_text() == "1\n"
    assert len(list(tmp_path.iterdir())) == 1
