"""One change of the data is told once, when it is over; nothing else is told, and nothing is lost."""

import os
from pathlib import Path

import pytest

from tasks.data_watch import Change, DataWatch
from tasks.errors import DataError

ROW = '{"messages": []}\n'


class Place:
    """A folder of raw data, its watch, and a clock."""

    def __init__(self, root: Path) -> None:
        self.raw, self.state, self.now = root / "raw", root / "watch.json", 1000.0
        self.raw.mkdir()
        self.write("a.jsonl", 5)

    def write(self, name: str, rows: int) -> None:
        (self.raw / name).write_text(ROW * rows)

    def watch(self, min_new_rows: int = 0) -> DataWatch:
        return DataWatch(self.raw, self.state, 10, min_new_rows, lambda: self.now)

    def look(self, after: float = 0, min_new_rows: int = 0) -> Change | None:
        self.now += after
        return self.watch(min_new_rows).look()

    def next(self) -> Change:
        """The change that is told once the data are quiet."""
        self.look()
        change = self.look(10)
        assert change is not None
        self.watch().told(change)
        return change


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.watch().start(known=True)
    return found


def test_known_data_are_not_told_and_unknown_ones_are(tmp_path: Path) -> None:
    for name, known in (("one", True), ("two", False)):
        (tmp_path / name).mkdir()
        place = Place(tmp_path / name)
        place.watch().start(known)
        assert (place.look(10) is None) is known
    change = place.look()
    assert change is not None
    assert (change.rows, change.rows_before, change.files, change.number) == (5, 0, 1, 1)


def test_a_change_is_told_when_it_has_been_quiet_and_again_until_it_was_heard(place: Place) -> None:
    place.write("b.jsonl", 3)
    assert place.look() is None
    assert place.look(9) is None
    first = place.look(1)
    assert first is not None
    assert (first.rows, first.rows_before, first.files) == (8, 5, 2)
    assert place.look(100) == first, "nobody heard it"
    place.watch().told(first)
    assert place.look(100) is None


def test_a_burst_of_changes_is_one(place: Place) -> None:
    for number in range(50):
        place.write(f"{number}.jsonl", 1)
        assert place.look(1) is None
    assert place.next().rows == 55
    assert place.look(100) is None


def test_the_same_bytes_are_no_change_and_coming_back_to_them_is_one(place: Place) -> None:
    place.write("a.jsonl", 5)
    os.utime(place.raw / "a.jsonl", (1, 1))
    assert place.look() is None
    assert place.look(20) is None
    place.write("a.jsonl", 6)
    one = place.next()
    place.write("a.jsonl", 5)
    two = place.next()
    place.write("a.jsonl", 6)
    three = place.next()
    assert one.fingerprint == three.fingerprint != two.fingerprint
    assert len({one.key, two.key, three.key}) == 3


def test_who_looks_does_not_matter(place: Place) -> None:
    """The key by which a listener knows it again is the same from another process that has the same state."""
    place.write("b.jsonl", 3)
    place.look()
    assert place.look(10) == place.look()


def test_few_new_rows_wait_for_others_and_lost_rows_do_not(place: Place) -> None:
    place.write("b.jsonl", 3)
    assert place.look(0, 4) is None
    assert place.look(10, 4) is None
    place.write("c.jsonl", 1)
    assert place.look(0, 4) is None
    change = place.look(10, 4)
    assert change is not None
    assert change.rows == 9
    place.watch().told(change)
    (place.raw / "c.jsonl").unlink()
    place.look(0, 4)
    assert place.look(10, 4) is not None


@pytest.mark.parametrize("name", ["b.jsonl", "policy.yaml", "deeper/c.csv"])
def test_any_file_counts_renamed_or_removed_too(place: Place, name: str) -> None:
    (place.raw / name).parent.mkdir(exist_ok=True)
    place.write(name, 1)
    added = place.next()
    (place.raw / name).rename(place.raw / "z.jsonl")
    renamed = place.next()
    (place.raw / "z.jsonl").unlink()
    removed = place.next()
    assert len({added.fingerprint, renamed.fingerprint, removed.fingerprint}) == 3


def test_no_data_at_all_and_data_that_cannot_be_read_are_a_change_too(place: Place) -> None:
    (place.raw / "b.parquet").write_bytes(b"PAR1")
    assert place.next().rows == 5
    for path in place.raw.iterdir():
        path.unlink()
    assert (place.next().rows, place.look(100)) == (0, None)


def test_a_damaged_state_is_named(place: Place) -> None:
    place.state.write_text("{")
    with pytest.raises(DataError, match=r"watch\.json: not what a watch leaves"):
        place.look()
