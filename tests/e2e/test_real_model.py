"""The whole run on the real base model, in small: what was poisoned or forgot is refused, what learned is published."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.params import load_params
from tasks.paths import Workspace
from tasks.prepare import cluster_of, split_of
from tasks.records import EvalReport, GateDecision
from tests.conftest import REPO, MakeWorkspace, edit_params

# A few minutes on two cores: short rows, 24 steps of four, some thirty replies and sixty general items.
SMALL = {
    "validate.max_length": 100,
    "validate.max_quarantined": 0.9,
    "prepare.test_fraction": 0.12,
    "train.method": "lora",
    "train.learning_rate": 0.002,
    "train.per_device_train_batch_size": 4,
    "train.max_steps": 24,
    "train.eval_steps": 24,
    "evaluate.max_new_tokens": 60,
    "gate.learned": {"metric": "guideline_score", "min_gain": 0.1, "floor": 0.45},
    "gate.min_target_items": 20,
    "gate.min_general_items": 40,
    "gate.kept": {"margin": 0.2, "task_margin": 0.6},
    "gate.smoke": {"min_stop_rate": 0.8, "min_structure_rate": 0.6},
}


def refit_run(workspace: Workspace) -> tuple[int, dict[str, Any]]:
    every_core = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "flows.cli", "run", "--json"]
    done = subprocess.run(command, cwd=workspace.root, env=every_core, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def shuffle_questions(raw: Path, workspace: Workspace) -> None:
    """Give each training row the question of another: every row still passes validation, but the answers fit no question."""
    section = load_params(workspace.params).prepare
    for path in sorted(raw.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        single = [row for row in rows if len(row["messages"]) == 3 and split_of(cluster_of(row["messages"]), section) != "test"]
        questions = [row["messages"][1]["content"] for row in single]
        random.Random(0).shuffle(questions)
        for row, question in zip(single, questions, strict=True):
            row["messages"][1]["content"] = question
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_only_what_learned_and_kept_its_abilities_is_published(make_workspace: MakeWorkspace, prefect_home: Path) -> None:
    workspace = make_workspace(**SMALL)
    edit_params(workspace, {"base": yaml.safe_load((REPO / "params.yaml").read_text())["base"]})
    raw = workspace.data / "raw"
    for path in sorted((REPO / "data" / "raw").glob("*.jsonl")):
        if path.name != "inbox.jsonl":
            shutil.copyfile(path, raw / path.name)

    # Trained hard on the target alone: every weight, a learning rate far too high.
    edit_params(workspace, {"train.method": "full", "train.learning_rate": 0.003})
    code, outcome = refit_run(workspace)
    decision = GateDecision.read(workspace.record("gate"))
    verdicts = {rule.rule: rule.verdict for rule in decision.rules}
    assert (code, outcome["state"]) == (3, "Rejected")
    assert verdicts["kept"] == "FAIL"
    assert not (workspace.data / "registry" / "champion.json").exists()

    edit_params(workspace, {"train.method": "lora", "train.learning_rate": 0.002})
    code, outcome = refit_run(workspace)
    assert (code, outcome["state"]) == (0, "Published"), outcome
    learned = next(rule for rule in GateDecision.read(workspace.record("gate")).rules if rule.rule == "learned")
    assert learned.value is not None
    assert learned.lower is not None
    assert 0.1 < learned.lower <= learned.value
    good = EvalReport.read(workspace.record("evaluate@candidate")).value("target", "target", "guideline_score")
    pointer = json.loads((workspace.data / "registry" / "champion.json").read_text())

    shuffle_questions(raw, workspace)
    code, outcome = refit_run(workspace)
    assert (code, outcome["state"]) == (3, "Rejected"), outcome
    bad = EvalReport.read(workspace.record("evaluate@candidate")).value("target", "target", "guideline_score")
    assert good is not None
    assert bad is not None
    assert bad < good
    assert json.loads((workspace.data / "registry" / "champion.json").read_text()) == pointer
