"""Which rows two versions have in common, and where the others went."""

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.readers import RawLine
from tasks.row_diff import EXAMPLES, FileRows, RowDiff, compare, hash_row

Files = dict[str, list[tuple[str, str]]]


def row(identity: str, text: str) -> bytes:
    return json.dumps({"id": identity, "topic": "t", "messages": [{"role": "user", "content": text}]}).encode()


def version(label: str, files: Files) -> list[FileRows]:
    return [
        FileRows(name, f"{label}:{name}").read((RawLine(name, n, row(*r)) for n, r in enumerate(rows, start=1)), {})
        for name, rows in files.items()
    ]


def diff(old: Files, new: Files) -> RowDiff:
    return compare(version("old", old), version("new", new))


def told(found: RowDiff, name: str) -> dict[str, int]:
    return {kind: count for kind, count in found.as_json()["files"][name].items() if count}


def test_each_kind_of_change_is_found_with_its_place() -> None:
    old = {"a": [("1", "one"), ("2", "two"), ("3", "three")], "b": [("4", "four"), ("5", "five")]}
    new = {"a": [("1", "one"), ("3", "THREE"), ("6", "six")], "b": [("4", "four")], "c": [("5", "five")]}
    found = diff(old, new)
    assert told(found, "a") == {"before": 3, "after": 3, "unchanged": 1, "changed": 1, "added": 1, "removed": 1}
    assert told(found, "b") == {"before": 2, "after": 1, "unchanged": 1}
    assert told(found, "c") == {"after": 1, "moved": 1}
    assert found.examples == {
        "added": ["new:a:3"],
        "removed": ["old:a:2"],
        "changed": ["new:a:2 (was old:a:3)"],
        "moved": ["new:c:1 (was old:b:2)"],
    }
    assert found.lines()[:4] == [
        "a: 3 -> 3 rows: 1 added, 1 removed, 1 changed, 1 unchanged",
        "b: 2 -> 1 rows: 1 unchanged",
        "c: 0 -> 1 rows: 1 moved",
        "all: 5 -> 5 rows: 1 added, 1 removed, 1 changed, 1 moved, 2 unchanged",
    ]


def test_equal_versions_have_no_examples() -> None:
    rows = {"a": [("1", "one"), ("1", "one"), ("", "two")]}
    assert diff(rows, rows).lines() == ["all: 3 -> 3 rows: 3 unchanged"]


def test_a_row_is_paired_once_however_often_it_stands_there() -> None:
    found = diff({"a": [("1", "x")] * 2}, {"a": [("1", "x")], "b": [("1", "x")] * 3})
    assert told(found, "a") == {"before": 2, "after": 1, "unchanged": 1}
    assert told(found, "b") == {"after": 3, "moved": 1, "added": 2}


def test_ids_count_within_a_file_first() -> None:
    """Files that number their rows from 1 have ids in common."""
    found = diff({"a": [("1", "x")], "b": [("1", "y")]}, {"a": [("1", "X")], "b": [("1", "Y")]})
    assert found.examples == {"changed": ["new:a:1 (was old:a:1)", "new:b:1 (was old:b:1)"]}
    moved = diff({"a": [("7", "x")]}, {"b": [("7", "X")]})
    assert moved.examples == {"changed": ["new:b:1 (was old:a:1)"]}


def test_a_version_without_rows() -> None:
    assert str(diff({}, {}).total) == "0 -> 0 rows"
    assert str(diff({"a": []}, {"b": [("1", "x")]}).total) == "0 -> 1 rows: 1 added"


def test_examples_are_few_and_the_rest_is_counted() -> None:
    lines = diff({}, {"a": [(str(n), str(n)) for n in range(5)]}).lines()
    assert lines[1:] == ["added:", *(f"  new:a:{n}" for n in range(1, EXAMPLES + 1)), "  and 2 more"]


SHAPES: list[Any] = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "topic": "t"},
    {"messages": [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}], "topic": "t", "source": "z"},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "topic": "t", "id": "9"},
    {"prompt": "q", "completion": "a", "label": "t"},
]


def test_the_shape_in_which_a_conversation_is_kept_is_no_change() -> None:
    assert len({hash_row(json.dumps(shape).encode(), {"topic": "label"})[0] for shape in SHAPES}) == 1


@pytest.mark.parametrize("other", [{"tools": [{"name": "find"}]}, {"group": "g"}])
def test_tools_and_group_are_a_part_of_a_row(other: dict[str, Any]) -> None:
    assert hash_row(json.dumps(SHAPES[0] | other).encode(), {})[0] != hash_row(json.dumps(SHAPES[0]).encode(), {})[0]


@pytest.mark.parametrize(
    "data", [b"\xff", b"not json", b"[1]", b"3", b'{"id": 3}', b'{"messages": 1, "id": ["x"]}', b"[" * 10**5]
)
def test_what_is_no_conversation_is_compared_as_it_stands(data: bytes) -> None:
    assert hash_row(data, {}) == hash_row(data, {})
    assert hash_row(data, {})[1] == 0
    assert hash_row(data, {})[0] != hash_row(b"other", {})[0]


ANY_FILES = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(st.tuples(st.sampled_from(["", "1", "2", "3"]), st.sampled_from("xyz")), max_size=6),
    max_size=3,
)


@settings(max_examples=30, deadline=None)
@given(ANY_FILES, ANY_FILES)
def test_no_row_is_lost_or_counted_twice(old: Files, new: Files) -> None:
    total = diff(old, new).total
    assert total.before == sum(map(len, old.values())) == total.unchanged + total.moved + total.changed + total.removed
    assert total.after == sum(map(len, new.values())) == total.unchanged + total.moved + total.changed + total.added
    here = [Counter((name, text) for name, rows in files.items() for _, text in rows) for files in (old, new)]
    anywhere = [Counter(text for rows in files.values() for _, text in rows) for files in (old, new)]
    assert total.unchanged == (here[0] & here[1]).total()
    assert total.unchanged + total.moved <= (anywhere[0] & anywhere[1]).total()


@settings(max_examples=30, deadline=None)
@given(ANY_FILES, st.randoms(use_true_random=False))
def test_another_order_of_the_same_rows_is_no_change(files: Files, shuffler: random.Random) -> None:
    shuffled = {name: shuffler.sample(rows, len(rows)) for name, rows in files.items()}
    assert diff(files, shuffled).examples == {}
