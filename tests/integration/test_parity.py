"""`dvc repro` and the flow are two drivers of the same stages: they leave the same records, and only the flow publishes."""

import json
from typing import Any

import pytest

from tasks.paths import Workspace
from tasks.repro import STAGES
from tests.integration.running import Step

# Training is not asked for the same bits, and what follows it then is not either.
APPROXIMATE = ("train", "evaluate@candidate", "gate", "report")
TOLERANCE = 1e-3
OF_THE_MODEL = {"seconds", "digest", "model_digest", "candidate_digest", "scores_sha256", "sha256", "reason"}


def record(workspace: Workspace, name: str) -> Any:
    value = json.loads(workspace.record(name).read_text())
    (value.get("environment") or {}).pop("git_commit", None)
    return value


def comparable(value: Any) -> Any:
    """Without what belongs to the bits of one trained model; numbers to compare within the tolerance."""
    if isinstance(value, dict):
        return {key: comparable(member) for key, member in value.items() if key not in OF_THE_MODEL}
    if isinstance(value, list):
        return [comparable(member) for member in value]
    return pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value


@pytest.mark.parametrize("name", [name for name in STAGES if name not in APPROXIMATE])
def test_the_records_are_equal(name: str, first: Step, reproduced: Workspace) -> None:
    assert record(reproduced, name) == record(first.left, name)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_the_records_that_depend_on_the_training_are_close(name: str, first: Step, reproduced: Workspace) -> None:
    assert record(reproduced, name)
    assert comparable(record(reproduced, name)) == comparable(record(first.left, name))


@pytest.mark.parametrize("name", ["train", "eval"])
def test_the_losses_are_close(name: str, first: Step, reproduced: Workspace) -> None:
    tables = [(place.plots / f"{name}.csv").read_text().splitlines() for place in (first.left, reproduced)]
    assert tables[0][0] == tables[1][0]
    ours, theirs = ([[float(cell) for cell in line.split(",")] for line in table[1:]] for table in tables)
    assert len(ours) >= 3
    assert [number for row in ours for number in row] == pytest.approx(
        [number for row in theirs for number in row], abs=TOLERANCE
    )


def test_dvc_repro_publishes_nothing(reproduced: Workspace) -> None:
    assert record(reproduced, "gate")["verdict"] == "PASS"
    assert not (reproduced.data / "registry").exists()
    assert not reproduced.record("push").exists()
