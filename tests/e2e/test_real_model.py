"""The whole run on the real base model, in small: what forgot is refused, what learned and kept its abilities is published."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.paths import Workspace
from tasks.records import GateDecision
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
    "gate.learned": {"metric": "guideline_score", "min_gain": 0.1, "floor": 0.3},
    "gate.min_target_items": 20,
    "gate.min_general_items": 40,
    "gate.kept": {"margin": 0.28, "task_margin": 0.6},
    "gate.smoke": {"min_stop_rate": 0.8, "min_structure_rate": 0.6},
}


def refit_run(workspace: Workspace) -> tuple[int, dict[str, Any]]:
    every_core = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "flows.cli", "run", "--json"]
    done = subprocess.run(command, cwd=workspace.root, env=every_core, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


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
    assert (workspace.data / "registry" / "versions" / "v1" / "model.safetensors").is_file()
