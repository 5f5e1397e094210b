"""push publishes what the gate passed, exactly that, and nothing else."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.decision_log import judged_at, note
from tasks.errors import NotApprovedError, PipelineError, RegistryError, StageInputError, StaleChampionError
from tasks.evaluation_records import GateDecision, RuleResult, Verdict
from tasks.files import parse_yaml, tree_digest, write_jsonl
from tasks.params import Params
from tasks.paths import Workspace
from tasks.push import push
from tasks.records import PushReceipt
from tasks.refusals import why_refused
from tasks.registry import Registry, open_registry
from tests.unit.publishing import approve, make_workspace, snapshot, write_model

Place = tuple[Workspace, Params, Registry]


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    workspace, params = make_workspace(tmp_path / "workspace")
    return workspace, params, open_registry(params.push, workspace)


def run(place: Place) -> PushReceipt:
    workspace, params, registry = place
    return push(registry, workspace, params)


def refused(place: Place, kind: type[PipelineError], match: str) -> None:
    """The push is refused and neither the registry nor the receipt changes."""
    workspace, params, _ = place
    folder = workspace.root / params.push.path
    before = snapshot(folder)
    receipt = workspace.record("push")
    stamp = receipt.stat().st_mtime_ns if receipt.exists() else None
    with pytest.raises(kind, match=match):
        run(place)
    assert snapshot(folder) == before
    assert (receipt.stat().st_mtime_ns if receipt.exists() else None) == stamp


def test_passed_candidate_becomes_the_champion(place: Place) -> None:
    workspace, params, registry = place
    digest = approve(workspace, b"one", None)
    receipt = run(place)
    assert receipt == PushReceipt(
        registry="local:data/registry",
        version="v1",
        digest=digest,
        previous_version=None,
        published=True,
        pull_request=None,
        override=None,
    )
    assert PushReceipt.read(workspace.record("push")) == receipt
    assert registry.verify("v1").model_digest == digest == tree_digest(workspace.candidate)
    folder = workspace.root / params.push.path / "versions" / "v1"
    assert (folder / "decision.json").read_bytes() == workspace.record("gate").read_bytes()
    card = (folder / "README.md").read_text()
    assert parse_yaml(card.split("---\n")[1])["model-index"][0]["name"] == "quillmere-support"
    assert digest in card


def test_second_push_finds_it_published(place: Place) -> None:
    workspace, params, _ = place
    approve(workspace, b"one", None)
    run(place)
    before = snapshot(workspace.root / params.push.path)
    assert run(place).published is False
    assert snapshot(workspace.root / params.push.path) == before


def test_next_candidate_replaces_the_champion_that_it_was_judged_against(place: Place) -> None:
    workspace, _, registry = place
    approve(workspace, b"one", None)
    run(place)
    approve(workspace, b"two", registry.champion())
    receipt = run(place)
    assert (receipt.version, receipt.previous_version, receipt.published) == ("v2", "v1", True)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_only_pass_is_published(place: Place, verdict: Verdict) -> None:
    approve(place[0], b"one", None, verdict)
    refused(place, NotApprovedError, f"the verdict is {verdict}, wanted PASS")


def test_without_a_decision_nothing_is_published(place: Place) -> None:
    write_model(place[0].candidate, b"one")
    refused(place, StageInputError, "the stage gate has not finished")


def test_model_changed_after_the_gate_is_refused(place: Place) -> None:
    approve(place[0], b"one", None)
    (place[0].candidate / "model.safetensors").write_bytes(b"One")
    refused(place, NotApprovedError, "changed after the gate")


def test_record_that_lies_about_the_digest_does_not_help(place: Place) -> None:
    """train.json still says the approved digest; only the bytes count."""
    digest = approve(place[0], b"one", None)
    write_model(place[0].candidate, b"two")
    assert json.loads(place[0].record("train").read_text())["digest"] == digest
    refused(place, NotApprovedError, "changed after the gate")


def test_unknown_file_in_the_model_is_refused_even_if_the_gate_saw_it(place: Place) -> None:
    workspace = place[0]
    approve(workspace, b"one", None)
    (workspace.candidate / "training_args.bin").write_bytes(b"pickle")
    decision = json.loads(workspace.record("gate").read_text()) | {"candidate_digest": tree_digest(workspace.candidate)}
    workspace.record("gate").write_text(json.dumps(decision))
    refused(place, RegistryError, "may not be published: training_args.bin")


def test_somebody_published_meanwhile(place: Place) -> None:
    workspace, _, _ = place
    approve(workspace, b"one", None)
    run(place)
    approve(workspace, b"two", None)
    refused(place, StaleChampionError, "the champion is v1, but the candidate was judged against none")


def test_champion_of_the_same_name_with_other_bytes_is_another(place: Place) -> None:
    workspace, _, registry = place
    approve(workspace, b"one", None)
    run(place)
    champion = registry.champion()
    assert champion is not None
    approve(workspace, b"two", champion.model_copy(update={"digest": "0" * 64}))
    refused(place, StaleChampionError, "judged against v1")


def test_model_that_was_rolled_back_stays_so(place: Place) -> None:
    """The unchanged second run after a rollback must not undo it."""
    workspace, _, registry = place
    approve(workspace, b"one", None)
    run(place)
    approve(workspace, b"two", registry.champion())
    run(place)
    registry.rollback(None, "rude replies")
    refused(place, NotApprovedError, r"rolled back \(rude replies\)")


def test_damaged_champion_is_not_called_published(place: Place) -> None:
    workspace, params, _ = place
    approve(workspace, b"one", None)
    run(place)
    (workspace.root / params.push.path / "versions" / "v1" / "model.safetensors").write_bytes(b"rot")
    refused(place, RegistryError, r"damaged: model.safetensors differ")


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ("train", "digest"),
        ("train", "base_digest"),
        ("train", "train_sha256"),
        ("evaluate-candidate", "model_digest"),
        ("base", "digest"),
        ("prepare", "accepted_sha256"),
        ("validate", "accepted_sha256"),
    ],
)
def test_records_of_another_model_do_not_go_on_the_card(place: Place, stage: str, field: str) -> None:
    workspace, _, _ = place
    approve(workspace, b"one", None)
    record = workspace.record(stage)
    record.write_text(json.dumps(json.loads(record.read_text()) | {field: "0" * 64}))
    refused(place, StageInputError, "do not belong to the model")


def test_system_prompt_is_the_most_frequent_of_the_training_data(place: Place) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    workspace, params, _ = place
    approve(workspace, b"one", None)
    rows = [
        [{"role": "system", "content": text}, {"role": "user", "content": "hi"}] for text in ("Be kind.", "Be rare.", "Be kind.")
    ]
    workspace.prepared.mkdir()
    pq.write_table(pa.table({"messages": rows}), workspace.prepared / "train.parquet")
    run(place)
    card = (workspace.root / params.push.path / "versions" / "v1" / "README.md").read_text()
    assert '{"role": "system", "content": "Be kind."}' in card
    assert "Be rare." not in card


def test_what_waits_for_approval_is_published_with_one_only(tmp_path: Path) -> None:
    workspace, params = make_workspace(tmp_path / "workspace")
    params = params.model_copy(update={"push": params.push.model_copy(update={"require_approval": True})})
    registry = open_registry(params.push, workspace)
    digest = approve(workspace, b"one", None)
    with pytest.raises(NotApprovedError, match=rf"waits for `refit approve {digest[:12]} --reason"):
        push(registry, workspace, params)
    assert registry.versions() == []
    assert push(registry, workspace, params, "seen by me").published
    moves = (workspace.root / params.push.path / "history.jsonl").read_text().splitlines()
    assert [json.loads(move)["reason"] for move in moves] == ["seen by me"]
    assert not push(registry, workspace, params).published, "once published, nothing waits"


def test_what_nobody_approved_in_time_waits_no_longer(tmp_path: Path) -> None:
    workspace, params = make_workspace(tmp_path / "workspace")
    section = params.push.model_copy(update={"require_approval": True, "approval_days": 2.0})
    registry = open_registry(section, workspace)
    digest = approve(workspace, b"one", None)
    note(workspace, GateDecision.read(workspace.record("gate")), [])
    judged = judged_at(workspace, digest)
    assert judged is not None
    assert why_refused(workspace, digest, section, judged + timedelta(days=2)) is None
    why = f"nobody approved it within 2 days of {judged:%Y-%m-%d}, push.approval_days"
    assert why_refused(workspace, digest, section, judged + timedelta(days=2, seconds=1)) == why
    write_jsonl(workspace.decisions, [{"items": "", "candidate": digest, "at": (judged - timedelta(days=3)).isoformat()}])
    with pytest.raises(NotApprovedError, match=r"was refused \(nobody approved it within 2 days"):
        push(registry, workspace, params.model_copy(update={"push": section}), "too late")
    assert registry.versions() == []
    later = section.model_copy(update={"approval_days": 4.0})
    assert push(registry, workspace, params.model_copy(update={"push": later}), "in time").published


def failed(workspace: Workspace, rule: str) -> str:
    """The gate refused the candidate by this rule; returns its digest."""
    digest = approve(workspace, b"one", None, "FAIL")
    result = RuleResult(rule=rule, verdict="FAIL", unit="points", value=0.1, lower=0.0, threshold=0.2, n=128, reason="too little")
    decision = GateDecision.read(workspace.record("gate"))
    decision.model_copy(update={"rules": [result]}).write(workspace.record("gate"))
    return digest


def test_an_override_is_published_and_never_silent(place: Place) -> None:
    workspace, params, registry = place
    digest = failed(workspace, "learned")
    before = workspace.record("gate").read_bytes()
    receipt = push(registry, workspace, params, "the launch cannot wait", override=True)
    assert (receipt.version, receipt.digest, receipt.override) == ("v1", digest, "the launch cannot wait")
    assert receipt.summary().endswith("over the gate's decision: the launch cannot wait")
    folder = workspace.root / params.push.path
    published = json.loads((folder / "versions" / "v1" / "decision.json").read_text())
    assert (published["verdict"], published["override"]) == ("FAIL", "the launch cannot wait")
    card = (folder / "versions" / "v1" / "README.md").read_text()
    assert "**OVERRIDDEN, published all the same: the launch cannot wait**" in card
    assert "**FAIL: the candidate is not to be published**" in card
    assert [move.reason for move in registry.history()] == ["the launch cannot wait"]
    assert workspace.record("gate").read_bytes() == before


def test_an_approval_alone_overrides_nothing(place: Place) -> None:
    workspace, params, registry = place
    failed(workspace, "learned")
    with pytest.raises(NotApprovedError, match="the verdict is FAIL"):
        push(registry, workspace, params, "I approve it")
    with pytest.raises(NotApprovedError, match="an override needs a reason"):
        push(registry, workspace, params, override=True)
    assert registry.versions() == []


def test_what_could_not_be_compared_cannot_be_overridden(place: Place) -> None:
    workspace, params, registry = place
    failed(workspace, "integrity")
    with pytest.raises(NotApprovedError, match="nothing is known that could be overridden"):
        push(registry, workspace, params, "all the same", override=True)
    assert registry.versions() == []


def test_an_override_of_a_pass_is_none(place: Place) -> None:
    workspace, params, registry = place
    approve(workspace, b"one", None)
    assert push(registry, workspace, params, "for sure", override=True).override is None


def test_a_model_changed_after_the_gate_cannot_be_overridden(place: Place) -> None:
    workspace, params, registry = place
    failed(workspace, "learned")
    (workspace.candidate / "model.safetensors").write_bytes(b"two")
    with pytest.raises(NotApprovedError, match="changed after the gate"):
        push(registry, workspace, params, "all the same", override=True)
