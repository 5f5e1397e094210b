"""The whole run on the real base model, in small: what forgot or learned from mixed-up replies is refused, the rest published.

What only looks like the published model is refused too, each for its own reason.
"""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluation_records import GateDecision, RuleResult
from tasks.normalisation import identify
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.prepare import split_of
from tests.conftest import REPO, build_workspace, edit_params, set_prefect_home

# Some minutes a run on one core: short rows, 24 steps of four, some thirty replies and fifty general items. A reply loss of 2.75
# per token lies between the 2.64 that 24 steps reached with the right replies and the 2.86 with mixed-up ones (base: 4.17).
SMALL = {
    "validate.max_length": 100,
    "validate.max_quarantined": 0.9,
    "prepare.eval_fraction": 0.02,
    "prepare.test_fraction": 0.06,
    "train.method": "lora",
    "train.learning_rate": 0.002,
    "train.per_device_train_batch_size": 4,
    "train.max_steps": 24,
    "train.eval_steps": 24,
    "evaluate.max_new_tokens": 56,
    "gate.learned": {"reply_loss": {"min_gain": 0.8, "floor": 2.75}},
    "gate.min_target_items": 20,
    "gate.min_general_items": 40,
    "gate.kept": {"margin": 0.28, "task_margin": 0.9},
    "gate.slices": {"by": [], "min_items": 8, "margin": 0.15},
    "gate.smoke": {"stops": 0.8, "nonempty": 1.0, "no_repetition": 0.9, "structure": 0.6},
}
HARD = {"train.method": "full", "train.learning_rate": 0.003, "train.max_steps": 8}
LEARNED = "learned/reply_loss"
Spoil = Callable[[Workspace], None]


@dataclass(frozen=True)
class Run:
    """What `refit run` ended with, and whether there was a published model afterwards."""

    code: int
    state: str
    decision: GateDecision
    published: bool


def refit_run(workspace: Workspace) -> Run:
    command = [sys.executable, "-m", "flows.cli", "run", "--json"]
    done = subprocess.run(command, cwd=workspace.root, stdout=subprocess.PIPE, text=True, check=False)
    decision = GateDecision.read(workspace.record("gate"))
    published = (workspace.data / "registry" / "champion.json").exists()
    return Run(done.returncode, json.loads(done.stdout)["state"], decision, published)


def rules(decision: GateDecision) -> dict[str, RuleResult]:
    return {rule.rule: rule for rule in decision.rules}


def mix_up_replies(workspace: Workspace) -> None:
    """Give the single-turn conversations outside the test split each other's questions; every row stays valid."""
    section = load_params(workspace.params).prepare
    files = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in workspace.data.glob("raw/*.jsonl")}
    rows: list[dict[str, Any]] = [
        row
        for path in sorted(files)
        for row in files[path]
        if len(row["messages"]) == 3 and split_of(identify(row["messages"]).prompt_hash, section) != "test"
    ]
    prompts = [row["messages"][:-1] for row in rows]
    random.Random(7).shuffle(prompts)
    for row, prompt in zip(rows, prompts, strict=True):
        row["messages"] = [*prompt, row["messages"][-1]]
    for path, members in files.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in members))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Workspace]:
    workspace = build_workspace(tmp_path_factory.mktemp("real") / "workspace", tiny_base, **SMALL)
    edit_params(workspace, {"base": yaml.safe_load((REPO / "params.yaml").read_text())["base"]})
    with pytest.MonkeyPatch.context() as patch:
        set_prefect_home(patch, tmp_path_factory.mktemp("prefect"))
        yield workspace


@pytest.fixture(scope="module")
def honest(workspace: Workspace) -> Run:
    copy_raw(workspace)
    return refit_run(workspace)


@pytest.fixture(scope="module")
def unpublished(workspace: Workspace, honest: Run, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of it in which nothing was published yet."""
    copy = Workspace(Path(shutil.copytree(workspace.root, tmp_path_factory.mktemp("again") / "real", symlinks=True)))
    shutil.rmtree(copy.data / "registry")
    return copy


@pytest.fixture(scope="module")
def forgot(unpublished: Workspace) -> Run:
    """Trained too hard."""
    edit_params(unpublished, HARD)
    return refit_run(unpublished)


@pytest.fixture(scope="module")
def mixed_up(unpublished: Workspace, forgot: Run) -> Run:
    edit_params(unpublished, {key: SMALL[key] for key in HARD})
    mix_up_replies(unpublished)
    return refit_run(unpublished)


def copy_raw(workspace: Workspace) -> None:
    for path in (REPO / "data" / "raw").glob("*.jsonl"):
        if path.name != "inbox.jsonl":
            shutil.copyfile(path, workspace.data / "raw" / path.name)


def test_what_learned_and_kept_its_abilities_is_published(workspace: Workspace, honest: Run) -> None:
    assert (honest.code, honest.state, honest.published) == (0, "Published", True)
    learned = rules(honest.decision)[LEARNED]
    assert learned.value is not None
    assert learned.lower is not None
    assert 0.8 < learned.lower <= learned.value
    assert (workspace.data / "registry" / "versions" / "v1" / "model.safetensors").is_file()


@pytest.mark.slow
def test_what_forgot_is_refused(forgot: Run) -> None:
    assert (forgot.code, forgot.state, forgot.published) == (3, "Rejected", False)
    assert rules(forgot.decision)["kept"].verdict == "FAIL"


@pytest.mark.slow
def test_what_was_trained_on_mixed_up_replies_is_refused(mixed_up: Run) -> None:
    assert (mixed_up.code, mixed_up.state, mixed_up.published) == (3, "Rejected", False)
    assert rules(mixed_up.decision)[LEARNED].verdict == "FAIL"


@pytest.fixture
def spoilt(workspace: Workspace, honest: Run, tmp_path: Path) -> Workspace:
    """A copy of the workspace whose candidate was published, to be spoilt."""
    return Workspace(Path(shutil.copytree(workspace.root, tmp_path / "spoilt", symlinks=True)))


def run_stage(workspace: Workspace, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"tasks.{words[0]}", *words[1:]]
    return subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)


def change_weights(workspace: Workspace, change: Callable[[Any, Any], Any]) -> None:
    """Replace each weight matrix W of the candidate by change(W, that of the base model)."""
    from safetensors.torch import load_file, save_file

    candidate, base = (load_file(folder / "model.safetensors") for folder in (workspace.candidate, workspace.base))
    changed = {name: change(tensor, base[name]) if tensor.dim() == 2 else tensor for name, tensor in candidate.items()}
    save_file(changed, workspace.candidate / "model.safetensors", metadata={"format": "pt"})


def be_the_base(workspace: Workspace) -> None:
    shutil.rmtree(workspace.candidate)
    shutil.copytree(workspace.base, workspace.candidate)


def add_noise(workspace: Workspace) -> None:
    """5 % of the weights, drawn anew with the spread of their matrix."""
    import torch

    generator = torch.Generator().manual_seed(7)

    def noised(weight: Any, base: Any) -> Any:
        noise = torch.randn(weight.shape, generator=generator) * weight.float().std() + weight.float().mean()
        return torch.where(torch.rand(weight.shape, generator=generator) < 0.05, noise.to(weight.dtype), weight)

    change_weights(workspace, noised)


def merge_wrongly(workspace: Workspace) -> None:
    """The adapter taken away from the base model in place of added to it."""
    change_weights(workspace, lambda weight, base: (2 * base.float() - weight.float()).to(weight.dtype))


def learn_one_reply(workspace: Workspace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.reply_scores import last_reply

    path = workspace.prepared / "train.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    start, end = last_reply(rows[0]["labels"])
    reply = rows[0]["labels"][start:end]
    for row in rows:
        start, _ = last_reply(row["labels"])
        row["input_ids"] = row["input_ids"][:start] + reply
        row["labels"] = [-100] * start + reply
        row["n_tokens"] = len(row["labels"])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    done = run_stage(workspace, "train")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [(be_the_base, {LEARNED}), (add_noise, {LEARNED, "kept"}), (merge_wrongly, {LEARNED}), (learn_one_reply, {LEARNED})],
)
def test_what_is_no_honest_candidate_is_stopped(spoil: Callable[[Workspace], None], reasons: set[str], spoilt: Workspace) -> None:
    spoil(spoilt)
    for words in (["evaluate", "candidate"], ["gate"]):
        done = run_stage(spoilt, *words)
        assert done.returncode == 0, done.stderr
    decision = GateDecision.read(spoilt.record("gate"))
    assert decision.verdict == "FAIL"
    assert reasons <= {rule.rule for rule in decision.rules if rule.verdict == "FAIL"}, decision.summary()
    assert run_stage(spoilt, "push").returncode != 0


def test_a_candidate_without_its_chat_template_is_not_even_scored(spoilt: Workspace) -> None:
    (spoilt.candidate / "chat_template.jinja").unlink()
    done = run_stage(spoilt, "evaluate", "candidate")
    assert done.returncode == 1
    assert "data/model: the tokenizer has no chat template" in done.stderr
