import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.errors import StageInputError
from tasks.evaluation_records import ChampionRecord, EvalReport, GateDecision, SuiteTask
from tasks.evaluation_sections import Gate
from tasks.files import sha256_file, sha256_json
from tasks.gate import gate, replay
from tasks.item_scores import COLUMNS, read_scores
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.records import Environment

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = Environment(python="3", platform="x", device="cpu", threads=2, git_commit=None, packages={})
TASKS = ("refit_facts", "refit_grammar")
LEVELS = {"base": 0.1, "champion": 0.7, "candidate": 0.9}


def rows(level: float) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for index in range(120):
        name, cluster = f"t{index}", f"c{index // 2}"
        score = min(1.0, max(0.0, level + (index % 5 - 2) * 0.05))
        slices = (f"topic {index % 10}", "en", "long" if index % 2 else "short")
        found.append(("target", "target_loss", name, cluster, *slices, "reply_loss", False, 3 - 2 * score))
        metrics = {"guideline_score": score} | dict.fromkeys(("stops", "nonempty", "no_repetition", "structure"), 1.0)
        found += [("target", "target", name, cluster, *slices, metric, True, value) for metric, value in metrics.items()]
    general = [(task, f"g{index}", index % 2) for task in TASKS for index in range(350)]
    return found + [("general", task, item, item, "", "", "", "acc", True, value) for task, item, value in general]


def grown(found: list[tuple[Any, ...]], n: int) -> list[tuple[Any, ...]]:
    """The first `n` items of the test split are others."""
    others = {f"t{index}": f"another {index}" for index in range(n)}
    return [(*row[:2], others.get(row[2], row[2]), *row[3:]) for row in found]


def suite_task(task: str) -> SuiteTask:
    options: dict[str, Any] = {"num_fewshot": None, "apply_chat_template": False, "limit": None, "n_items": 350}
    return SuiteTask(suite="general", entry="refit_general", task=task, metric="acc", version="1", **options)


def write(workspace: Workspace, role: Any, found: list[tuple[Any, ...]], digest: str | None) -> None:
    path = workspace.scores(role) / "items.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = dict.fromkeys(COLUMNS, "str") | {"higher_is_better": "bool", "value": "float64"}
    table = pd.DataFrame(found, columns=list(COLUMNS)).astype(kinds)
    table.assign(hash=table["item"].map(sha256_json).astype("str")).to_parquet(path)
    EvalReport(
        role=role,
        model_digest=digest,
        items_sha256=digest and "i" * 64,
        scores_sha256=sha256_file(path),
        dtype=digest and "float32",
        tasks=list(map(suite_task, TASKS)) if digest else [],
        metrics=[],
        environment=ENVIRONMENT,
    ).write(workspace.record(f"evaluate@{role}"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A complete workspace with a champion, as far as the gate reads it."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    found = Workspace(tmp_path)
    for role, level in LEVELS.items():
        write(found, role, rows(level), role * 8)
    write(found, "best", [], None)
    ChampionRecord(registry="local", version="v2", digest="champion" * 8).write(found.record("champion"))
    return found


@pytest.fixture
def section() -> Gate:
    return load_params(REPOSITORY / "params.yaml").gate.model_copy(update={"min_target_items": 100, "min_general_items": 700})


def drop_champion(workspace: Workspace) -> None:
    write(workspace, "champion", [], None)
    ChampionRecord(registry="local", version=None, digest=None).write(workspace.record("champion"))


def test_the_decision_is_written_and_returned(workspace: Workspace, section: Gate) -> None:
    decision = gate(section, workspace)
    assert GateDecision.read(workspace.record("gate")) == decision
    assert decision.verdict == "PASS", decision.reasons()
    assert (decision.champion_version, decision.champion_digest) == ("v2", "champion" * 8)
    names = [rule.rule for rule in decision.rules]
    assert "champion/guideline_score" in names
    assert names[-7:-5] == ["slices/topic", "slices/length"]
    assert (decision.best_version, decision.is_best) == ("v2", True)


def test_without_a_champion(workspace: Workspace, section: Gate) -> None:
    drop_champion(workspace)
    decision = gate(section, workspace)
    assert decision.verdict == "PASS", decision.reasons()
    assert not [rule for rule in decision.rules if rule.rule.startswith("champion")]
    assert decision.champion_version is None


def test_the_order_of_rows_does_not_change_the_record(workspace: Workspace, section: Gate) -> None:
    gate(section, workspace)
    first = workspace.record("gate").read_bytes()
    write(workspace, "candidate", rows(LEVELS["candidate"])[::-1], "candidate" * 8)
    gate(section, workspace)
    assert workspace.record("gate").read_bytes() == first


@pytest.mark.parametrize("role", ["base", "champion", "candidate"])
def test_scores_of_another_record_are_refused(workspace: Workspace, section: Gate, role: str) -> None:
    pd.DataFrame(rows(1.0), columns=list(COLUMNS)).to_parquet(workspace.scores(role) / "items.parquet")
    with pytest.raises(
        StageInputError, match=f"data/scores/{role}/items.parquet: found sha256 .* data/reports/evaluate-{role}.json"
    ):
        gate(section, workspace)
    assert not workspace.record("gate").exists()


def test_missing_files_are_named(workspace: Workspace, section: Gate) -> None:
    (workspace.scores("candidate") / "items.parquet").unlink()
    with pytest.raises(StageInputError, match=r"scores/candidate/items\.parquet: missing"):
        gate(section, workspace)
    workspace.record("evaluate@candidate").unlink()
    with pytest.raises(StageInputError, match=r"evaluate-candidate\.json: missing"):
        gate(section, workspace)


def test_a_record_of_another_role_is_refused(workspace: Workspace, section: Gate) -> None:
    shutil.copy(workspace.record("evaluate@base"), workspace.record("evaluate@candidate"))
    with pytest.raises(StageInputError, match=r"evaluate-candidate\.json: is of the base"):
        gate(section, workspace)


def test_another_champion_than_the_scored_one_is_refused(workspace: Workspace, section: Gate) -> None:
    ChampionRecord(registry="local", version="v3", digest="another" * 8).write(workspace.record("champion"))
    with pytest.raises(
        StageInputError, match=r"evaluate-champion\.json: is of champion.* data/reports/champion\.json says another"
    ):
        gate(section, workspace)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns=["cluster", "value"]), "lacks the columns cluster, value"),
        (lambda table: table.assign(item=None), "is empty"),
        (lambda table: table.assign(higher_is_better=[index % 2 == 0 for index in range(len(table))]), "both better and worse"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    path = tmp_path / "base" / "items.parquet"
    path.parent.mkdir()
    change(pd.DataFrame(rows(0.5), columns=list(COLUMNS))).to_parquet(path)
    with pytest.raises(StageInputError, match=words):
        read_scores(path)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"not a table")
    with pytest.raises(StageInputError, match="not a Parquet file"):
        read_scores(tmp_path / "items.parquet")
    with pytest.raises(StageInputError, match="missing"):
        read_scores(tmp_path / "none.parquet")


def run(workspace: Workspace) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tasks.gate", "--workspace", str(workspace.root)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def test_the_same_items_wear_by_every_other_candidate(workspace: Workspace, section: Gate) -> None:
    def worn() -> int:
        return next(rule.n for rule in gate(section, workspace).rules if rule.rule == "wear")

    assert [worn(), worn()] == [0, 0], "the same candidate asks nothing new"
    write(workspace, "candidate", rows(0.85), "another!" * 8)
    assert [worn(), worn()] == [1, 1]
    for role, level in (LEVELS | {"candidate": 0.8}).items():
        write(workspace, role, grown(rows(level), 30), (role if role != "candidate" else "a third!") * 8)
    assert worn() == 2, "most of them are the same items"
    for role, level in (LEVELS | {"candidate": 0.75}).items():
        write(workspace, role, grown(rows(level), 120), (role if role != "candidate" else "a fourth") * 8)
    assert worn() == 0, "others have judged none yet"
    workspace.decisions.write_text('{"items": "half a li')
    with pytest.raises(StageInputError, match=r"data/decisions.jsonl: a line of it is not JSON"):
        worn()


def test_a_replay_decides_with_other_thresholds_and_writes_nothing(workspace: Workspace, section: Gate) -> None:
    decision = gate(section, workspace)
    before = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
    assert replay(section, workspace) == decision
    wanted = section.learned["guideline_score"].model_copy(update={"min_gain": 0.9})
    strict = section.model_copy(update={"learned": {"guideline_score": wanted}})
    assert (decision.verdict, replay(strict, workspace).verdict) == ("PASS", "FAIL")
    assert {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()} == before


def test_as_a_program_a_refusal_exits_with_0_and_a_stale_input_with_2(workspace: Workspace) -> None:
    write(workspace, "candidate", rows(0.1), "candidate" * 8)
    refused = run(workspace)
    assert (refused.returncode, refused.stdout.splitlines()[0]) == (0, "gate FAIL")
    assert "learned/guideline_score: guideline_score +0.0 pp" in refused.stdout
    workspace.record("champion").unlink()
    stale = run(workspace)
    assert stale.returncode == 2
    assert stale.stderr.startswith("refit: StageInputError: ")
