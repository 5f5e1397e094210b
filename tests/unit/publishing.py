"""A workspace whose gate passed a small fake model, for the tests of publishing."""

import hashlib
from functools import cache
from pathlib import Path

from tasks.data_profile import Profile
from tasks.evaluation_records import EvalReport, GateDecision, Metric, Verdict
from tasks.files import hash_tree, sha256_json, tree_digest
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.records import (
    BaseModelRecord,
    DriftReport,
    Environment,
    PreparedDataset,
    SplitStatistics,
    TrainedModel,
    ValidationReport,
)
from tasks.registry import Pointer

PARAMS = Path(__file__).parents[2] / "params.yaml"
ENVIRONMENT = Environment(
    python="3.11.7", platform="Linux x86_64", device="cpu", threads=2, git_commit="c" * 40, packages={"torch": "2.13"}
)


@cache
def default_params() -> Params:
    return load_params(PARAMS)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_model(folder: Path, weights: bytes) -> str:
    """A model folder with these weights; returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return tree_digest(folder)


def make_workspace(root: Path) -> tuple[Workspace, Params]:
    """Own params.yaml, no records yet."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_bytes(PARAMS.read_bytes())
    (root / "dvc.yaml").write_text("stages: {}\n")
    return Workspace(root), default_params()


def approve(
    workspace: Workspace, weights: bytes, champion: Pointer | None, verdict: Verdict = "PASS", accepted: str | None = None
) -> str:
    """Write the candidate and all records as if the gate had judged it against `champion`; returns its digest.

    With `accepted`, the hash of the accepted rows, it is the stage drift itself that compares them.
    """
    digest = write_model(workspace.candidate, weights)
    if accepted is None:
        accepted = sha("accepted")
        DriftReport(accepted_sha256=accepted, reference=None, features=[]).write(workspace.record("drift"))
        Profile(accepted_sha256=accepted, rows=549, counts={}).write(workspace.profile)
    base = {"config.json": sha("base")}
    files = {"train.parquet": sha("train"), "test.parquet": sha("test")}
    split = SplitStatistics(rows=378, messages=1306, tokens=40664, supervised_tokens=19452, max_tokens=232)
    BaseModelRecord(source=default_params().base.named, digest=sha256_json(base), files=base, n_parameters=134_515_008).write(
        workspace.record("base")
    )
    ValidationReport(
        raw_files={"data/raw/a.jsonl": sha("raw")},
        n_raw=620,
        n_accepted=549,
        n_quarantined=71,
        reasons={"no_reply": 70, "too_long": 1},
        masked={},
        expectations=[],
        accepted_sha256=accepted,
        tokenizer_digest=sha("tokenizer"),
        quarantine_sha256=sha("quarantine"),
    ).write(workspace.record("validate"))
    PreparedDataset(
        accepted_sha256=accepted,
        n_accepted=549,
        dropped={"duplicate": 2, "near_duplicate": 1, "contaminated": 0, "replay_surplus": 0},
        n_conflicts=0,
        n_replayed=0,
        splits={"train": split, "eval": split, "test": split},
        files=files,
    ).write(workspace.record("prepare"))
    trained = {
        "digest": digest,
        "base_digest": sha256_json(base),
        "start_digest": sha256_json(base),
        "start_version": None,
        "train_sha256": files["train.parquet"],
        "method": "lora",
        "dtype": "float32",
        "n_parameters": 134_515_008,
        "n_trainable": 4_884_480,
        "steps": 48,
        "best_step": None,
        "epochs": 1.0,
        "train_loss": 1.5,
        "eval_loss_before": 2.9,
        "eval_loss_after": 1.2,
        "seconds": 300.0,
        "environment": ENVIRONMENT.model_dump(),
    }
    known = {name: trained.get(name, 1) for name in TrainedModel.model_fields}
    TrainedModel.model_validate(known).write(workspace.record("train"))
    metric = Metric(
        suite="target", task="refit_target", metric="guideline_score", value=0.91234567, stderr=0.01, n=126, higher_is_better=True
    )
    EvalReport(
        role="candidate",
        model_digest=digest,
        items_sha256=sha("items"),
        scores_sha256=sha("scores"),
        dtype="float32",
        tasks=[],
        metrics=[metric],
        environment=ENVIRONMENT,
    ).write(workspace.record("evaluate@candidate"))
    GateDecision(
        verdict=verdict,
        rules=[],
        candidate_digest=digest,
        base_digest=sha256_json(base),
        champion_version=champion.version if champion else None,
        champion_digest=champion.digest if champion else None,
        best_version=champion.version if champion else None,
        is_best=True,
        items_sha256=sha("items"),
    ).write(workspace.record("gate"))
    return digest


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder but the lock, with its hash."""
    return {name: value for name, value in hash_tree(folder).items() if name != ".lock"}
