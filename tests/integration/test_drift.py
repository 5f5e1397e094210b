"""The stage drift: with which version the data are compared, and what stops a run."""

import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.accepted import to_table
from tasks.conversations import Accepted
from tasks.drift import current_reference, drift
from tasks.errors import DataError, RegistryError, StageInputError
from tasks.files import sha256_file
from tasks.push import push
from tasks.records import DriftReport
from tasks.registry import open_registry
from tasks.sections import Drift
from tests.integration.test_data_profile import rows
from tests.unit.publishing import approve, make_workspace

MONDAY, TUESDAY = rows(60, 1), rows(60, 1) + rows(6, 2)
SPAM = rows(60, 3, lambda draw: " ".join(draw.choices(["casino", "bonus", "jackpot", "winner", "lucky"], k=9)))


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Place:
    def __init__(self, root: Path) -> None:
        self.workspace, self.params = make_workspace(root)
        self.registry = open_registry(self.params.push, self.workspace)

    def compare(self, given: list[Accepted], severity: str = "critical") -> DriftReport:
        """Validate wrote these rows; now the stage runs."""
        self.workspace.accepted.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(given), self.workspace.accepted)
        approve(self.workspace, b"", self.registry.champion(), accepted=sha256_file(self.workspace.accepted))
        section = Drift.model_validate(self.params.drift.model_dump() | {"severity": severity})
        return drift(section, self.registry, self.workspace)

    def publish(self, given: list[Accepted], weights: bytes) -> None:
        self.compare(given, "warning")
        approve(self.workspace, weights, self.registry.champion(), accepted=sha256_file(self.workspace.accepted))
        push(self.registry, self.workspace, self.params)

    @property
    def reference(self) -> str | None:
        return current_reference(self.workspace, self.params)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "workspace")


def test_before_the_first_publication_there_is_nothing_to_compare(place: Place) -> None:
    report = place.compare(MONDAY)
    assert report == DriftReport.read(place.workspace.record("drift"))
    assert (report.reference, report.features, place.reference) == (None, [], None)
    assert "no published version" in report.summary()


def test_publishing_the_data_changes_no_answer(place: Place) -> None:
    for given, weights, before in ((MONDAY, b"one", None), (TUESDAY, b"two", "v1"), (TUESDAY, b"three", "v1")):
        place.publish(given, weights)
        assert place.reference == place.compare(given).reference == before


def test_growth_of_the_same_kind_is_no_drift(place: Place) -> None:
    place.publish(MONDAY, b"one")
    report = place.compare(TUESDAY)
    assert (report.reference, [feature.feature for feature in report.features if feature.drifted]) == ("v1", [])
    assert report.summary() == "no drift against the data of v1"


def test_other_data_are_refused_with_what_moved_and_leave_no_record(place: Place) -> None:
    place.publish(MONDAY, b"one")
    with pytest.raises(DataError, match=r"drift of \d features against the data of v1\n") as caught:
        place.compare(SPAM)
    assert re.search(r"vocabulary: distance 0\.\d\d, ", str(caught.value))
    assert "another push.name and push.path" in str(caught.value)
    assert not place.workspace.record("drift").exists()


def test_as_a_warning_it_is_reported_and_what_is_published_is_the_next_reference(place: Place) -> None:
    place.publish(MONDAY, b"one")
    assert "vocabulary" in place.compare(SPAM, "warning").summary()
    place.publish(SPAM, b"two")
    assert place.compare(SPAM[:55]).reference == "v2"


def test_after_a_rollback_the_version_gone_back_to_counts(place: Place) -> None:
    place.publish(MONDAY, b"one")
    place.publish(SPAM, b"two")
    place.registry.rollback("v1", "spam")
    assert place.compare(TUESDAY).reference == "v1"
    place.publish(TUESDAY, b"three")
    assert place.reference == "v1"  # not v2, which was taken back


def test_a_damaged_profile_stops_the_stage(place: Place) -> None:
    place.publish(MONDAY, b"one")
    file = place.workspace.root / place.params.push.path / "versions" / "v1" / "data_profile.json"
    file.write_text("{}")
    with pytest.raises(RegistryError, match=r"data_profile\.json: damaged"):
        place.compare(TUESDAY)


def test_without_validate_the_stage_names_it(place: Place) -> None:
    with pytest.raises(StageInputError, match="the stage validate has not finished"):
        drift(place.params.drift, place.registry, place.workspace)


def test_a_record_of_other_data_keeps_the_model_from_being_published(place: Place) -> None:
    place.compare(MONDAY)
    approve(place.workspace, b"one", None, accepted="0" * 64)
    with pytest.raises(StageInputError, match=r"drift\.json"):
        push(place.registry, place.workspace, place.params)
