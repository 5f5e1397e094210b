"""Which published model the candidate is judged against, and that an unchanged run changes nothing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.champion import champion, current
from tasks.errors import RegistryError
from tasks.evaluation_records import ChampionRecord, GateDecision
from tasks.files import sha256_file, tree_digest
from tasks.params import Params
from tasks.paths import Workspace
from tasks.push import push
from tasks.registry import open_registry
from tests.unit.publishing import approve, make_workspace, snapshot


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Workspace, Params]:
    return make_workspace(tmp_path / "workspace")


def run(workspace: Workspace, params: Params) -> ChampionRecord:
    record = champion(open_registry(params.push, workspace), workspace)
    assert ChampionRecord.read(workspace.record("champion")) == record == current(workspace, params)
    return record


def publish(workspace: Workspace, params: Params, weights: bytes, **against: Any) -> str:
    """Approve against the present champion and publish; `against` are fields of the decision. Returns the digest."""
    registry = open_registry(params.push, workspace)
    digest = approve(workspace, weights, registry.champion())
    GateDecision.read(workspace.record("gate")).model_copy(update=against).write(workspace.record("gate"))
    push(registry, workspace, params)
    return digest


def test_without_a_champion_there_is_a_file_of_nulls(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    assert run(workspace, params) == ChampionRecord(registry="local:data/registry", version=None, digest=None)
    for role, folder in (("champion", workspace.champion), ("best", workspace.best)):
        assert [path.name for path in folder.iterdir()] == [f"{role}.json"]
        assert json.loads((folder / f"{role}.json").read_text()) == {"version": None, "digest": None}
    assert not (workspace.root / params.push.path).exists()


def test_champion_is_copied_for_a_new_candidate(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    digest = publish(workspace, params, b"one")
    approve(workspace, b"two", None)
    record = run(workspace, params)
    assert (record.version, record.digest) == ("v1", digest)
    assert tree_digest(workspace.model("champion")) == digest
    assert json.loads((workspace.champion / "champion.json").read_text()) == {"version": "v1", "digest": digest}


def test_candidate_that_became_champion_leaves_the_record_as_it_was(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    for weights, before in ((b"one", None), (b"two", "v1"), (b"three", "v2")):
        registry = open_registry(params.push, workspace)
        approve(workspace, weights, registry.champion())
        assert run(workspace, params).version == before
        output = snapshot(workspace.champion)
        push(registry, workspace, params)
        assert run(workspace, params).version == before
        assert snapshot(workspace.champion) == output


def test_leftovers_of_another_champion_go(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    workspace.model("champion").mkdir(parents=True)
    (workspace.model("champion") / "model-00002.safetensors").write_bytes(b"old")
    run(workspace, params)
    assert [path.name for path in workspace.champion.iterdir()] == ["champion.json"]


def test_without_a_trained_candidate_it_is_the_champion(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    workspace.record("train").unlink()
    assert run(workspace, params).version == "v1"


def test_after_a_rollback_it_is_the_version_that_was_rolled_back_to(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    publish(workspace, params, b"two")
    before = run(workspace, params)
    open_registry(params.push, workspace).rollback(None, "bad")
    assert run(workspace, params) == before
    assert before.version == "v1"


def test_replaced_version_that_is_gone_counts_as_none(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    publish(workspace, params, b"two")
    (workspace.root / params.push.path / "versions" / "v1").rename(workspace.root / "archive")
    assert run(workspace, params).version is None


def test_damaged_champion_is_refused_without_a_record(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    approve(workspace, b"two", None)
    (workspace.root / params.push.path / "versions" / "v1" / "model.safetensors").write_bytes(b"rot")
    with pytest.raises(RegistryError, match="damaged"):
        run(workspace, params)
    assert not workspace.record("champion").exists()


def best(workspace: Workspace, params: Params) -> tuple[str | None, str | None]:
    """Versions that a new candidate would be compared with: the champion, and the best where that is another."""
    approve(workspace, b"a new one", None)
    record = run(workspace, params)
    assert workspace.model("best").exists() is (record.best_version is not None)
    if record.best_version:
        assert tree_digest(workspace.model("best")) == record.best_digest
    return record.version, record.best_version


def test_the_best_version_is_what_no_later_one_was_as_good_as(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    assert best(workspace, params) == ("v1", None), "the champion is the best"
    publish(workspace, params, b"two", is_best=False, best_version="v1")
    assert best(workspace, params) == ("v2", "v1")
    publish(workspace, params, b"three", is_best=False, best_version="v1")
    assert best(workspace, params) == ("v3", "v1")
    publish(workspace, params, b"four", is_best=True, best_version="v1")
    assert best(workspace, params) == ("v4", None)
    publish(workspace, params, b"five", is_best=False, best_version="v4")
    assert best(workspace, params) == ("v5", "v4")


def test_a_version_that_was_rolled_back_is_no_measure(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    publish(workspace, params, b"two", is_best=True, best_version="v1")
    open_registry(params.push, workspace).rollback(None, "rude replies")
    publish(workspace, params, b"three", is_best=False, best_version="v2")
    assert best(workspace, params) == ("v3", None)


def test_an_older_decision_without_the_rule_names_no_best_version(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    publish(workspace, params, b"one")
    folder = workspace.root / params.push.path / "versions" / "v1"
    decision = json.loads((folder / "decision.json").read_text())
    del decision["best_version"], decision["is_best"]
    (folder / "decision.json").write_text(json.dumps(decision))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["decision.json"] = sha256_file(folder / "decision.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert best(workspace, params) == ("v1", None)
