"""`refit run` on a fresh workspace, and then again and again on the same one after one change each.

The runs follow each other as a chain of fixtures, each of which keeps a copy of the workspace as its run left it; the tests
look at the copies only, so that their order does not matter.
"""

import json
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InputError
from tasks.evaluation_records import EvalReport, GateDecision, ReportPage
from tasks.files import sha256_file, tree_digest
from tasks.local_registry import LocalRegistry
from tasks.normalisation import identify
from tasks.params import load_params
from tasks.paths import ROLES, Workspace
from tasks.preflight import before_training
from tasks.prepare import prepare, split_of
from tasks.records import BaseModelRecord, PreparedDataset, PushReceipt, TrainedModel, ValidationReport
from tasks.repro import STAGES, changed_stages
from tasks.validate import validate
from tests.conftest import edit_params
from tests.integration.running import REFIT, Step, execute, refused, stage, take

EVALUATIONS = [f"evaluate@{role}" for role in ROLES]
# As `refit run` does, and then tells whether Prefect was imported.
PROBED_RUN = """
import sys
from flows.cli import main
code = main(["run", "--json"])
print("prefect" in sys.modules, file=sys.stderr)
sys.exit(code)
"""
FLOW = """
from importlib import import_module
from flows.console import run_in_process
print(*run_in_process(lambda: import_module("flows.retrain").retrain))
"""


def registry_of(workspace: Workspace) -> LocalRegistry:
    return LocalRegistry(workspace.data / "registry")


def champion_of(workspace: Workspace) -> str:
    pointer = registry_of(workspace).champion()
    assert pointer is not None
    return pointer.version


def ask(api: str, path: str) -> list[dict[str, Any]]:
    """Everything of one kind that the Prefect server knows."""
    request = urllib.request.Request(f"{api}/{path}/filter", data=b"{}", headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


# The first run


@pytest.fixture(scope="module")
def told(first: Step, server: str) -> dict[str, list[dict[str, Any]]]:
    """What the server knows of the first run: later runs are told apart by the flow run's id."""
    runs = sorted(ask(server, "flow_runs"), key=lambda run: str(run["start_time"]))
    return {
        "flow_runs": runs[:1],
        "task_runs": [run for run in ask(server, "task_runs") if run["flow_run_id"] == runs[0]["id"]],
        "artifacts": [artifact for artifact in ask(server, "artifacts") if artifact["flow_run_id"] == runs[0]["id"]],
    }


def test_the_page_of_the_run_shows_every_test_conversation(first: Step) -> None:
    page = ReportPage.read(first.left.record("report"))
    html = first.left.report.read_text()
    answers = (first.left.scores("candidate") / "answers.jsonl").read_text().splitlines()
    assert (page.verdict, page.sha256) == ("PASS", sha256_file(first.left.report))
    assert html.count("<article") == len(answers) > 5
    assert all(json.loads(line)["id"] in html for line in answers)


def test_other_versions_of_what_scores_make_the_scores_stale(first: Step, tmp_path: Path) -> None:
    upgraded = tmp_path / "lm_eval-99.0.dist-info"
    upgraded.mkdir()
    (upgraded / "METADATA").write_text("Metadata-Version: 2.1\nName: lm_eval\nVersion: 99.0\n")
    done = execute(first.left, [*REFIT, "status", "--json"], env={"PYTHONPATH": str(tmp_path)})
    assert json.loads(done.stdout)["stale"] == ["evaluate@base", "evaluate@candidate"], done.stderr


def test_all_models_can_be_asked(first: Step) -> None:
    done = execute(first.left, [*REFIT, "compare", "Where is my parcel?", "--json"])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["answers"]) == {"base", "candidate"}
    assert found["answers"]["base"] != found["answers"]["candidate"]
    assert [message["role"] for message in found["messages"]] == ["system", "user"]


def test_the_doctor_finds_nothing_or_what_no_model_could_pass(first: Step, tmp_path: Path) -> None:
    done = execute(first.left, [*REFIT, "doctor", "--json"])
    assert done.returncode == 0, done.stdout
    checks = json.loads(done.stdout)["checks"]
    assert [check["name"] for check in checks] == [
        "data",
        "base",
        "train",
        "registry",
        "record",
        "disk",
        "memory",
        "judge",
        "gate",
    ]
    assert not any(check["fault"] for check in checks)
    strict = Workspace(Path(shutil.copytree(first.left.root, tmp_path / "strict", symlinks=True)))
    edit_params(strict, {"gate.kept.margin": 0.001, "record.dvc_remote": "nowhere"})
    done = execute(strict, [*REFIT, "doctor"])
    assert done.returncode == 2
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert [line.split()[1] for line in faults] == ["record", "gate"]
    assert "record.dvc_remote nowhere: DVC has no such remote" in faults[0]
    assert "a model without any loss would pass about 0 % of the time" in faults[1]


def test_another_tokenizer_or_template_than_the_champions_is_told_before_the_training(first: Step, tmp_path: Path) -> None:
    """And other weights alone are not."""
    place = Workspace(Path(shutil.copytree(first.left.root, tmp_path / "other", symlinks=True)))
    before_training(place, load_params(place.params))
    record = BaseModelRecord.read(place.record("base"))
    record.model_copy(update={"digest": "0" * 64}).write(place.record("base"))
    before_training(place, load_params(place.params))
    template, tokenizer = (place.base / name for name in ("chat_template.jinja", "tokenizer.json"))
    fewer = json.loads(tokenizer.read_text())
    fewer["model"]["merges"] = fewer["model"]["merges"][:200]
    for file, text in ((template, f"<|endoftext|>{template.read_text()}"), (tokenizer, json.dumps(fewer))):
        before = file.read_text()
        file.unlink()
        file.write_text(text)
        with pytest.raises(InputError, match=r"v1 has another tokenizer or chat template than .* by another push\.path"):
            before_training(place, load_params(place.params))
        file.write_text(before)


def test_a_fresh_workspace_ends_published(first: Step) -> None:
    assert first.done.returncode == 0, first.output
    answer = json.loads(first.done.stdout)
    assert answer["state"] == "Published"
    assert answer["message"].startswith("published v1 ")
    assert first.ran == list(STAGES)
    assert "Traceback" not in first.output


def test_every_stage_left_its_record(first: Step) -> None:
    for name, kind in STAGES.items():
        kind.read(first.left.record(name))
    receipt = PushReceipt.read(first.left.record("push"))
    assert (receipt.version, receipt.previous_version, receipt.published) == ("v1", None, True)
    assert EvalReport.read(first.left.record("evaluate@champion")).model_digest is None
    assert GateDecision.read(first.left.record("gate")).verdict == "PASS"


def test_no_row_is_lost(first: Step) -> None:
    validated = ValidationReport.read(first.left.record("validate"))
    prepared = PreparedDataset.read(first.left.record("prepare"))
    raw = first.left.data / "raw"
    lines = sum(len([line for line in path.read_text().splitlines() if line.strip()]) for path in raw.glob("*.jsonl"))
    assert lines > 100
    assert validated.n_raw == lines == validated.n_accepted + validated.n_quarantined
    assert (
        validated.n_quarantined
        == sum(validated.reasons.values())
        == sum(len(path.read_text().splitlines()) for path in first.left.quarantine.iterdir())
    )
    assert validated.reasons == {"not_json": 1}
    assert prepared.n_accepted == validated.n_accepted
    assert prepared.n_accepted == sum(split.rows for split in prepared.splits.values()) + sum(prepared.dropped.values())
    assert set(prepared.splits) == {"train", "eval", "test"}
    assert len((first.left.prepared / "dropped.jsonl").read_text().splitlines()) == sum(prepared.dropped.values()) > 0


def test_the_training_changed_every_parameter(first: Step) -> None:
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (first.left.base, first.left.candidate))
    assert before.keys() == after.keys()
    assert len(before) > 15
    assert [name for name in before if before[name].equal(after[name])] == []
    assert {name: (t.shape, t.dtype) for name, t in before.items()} == {name: (t.shape, t.dtype) for name, t in after.items()}
    record = TrainedModel.read(first.left.record("train"))
    assert record.n_trainable == record.n_parameters == sum(tensor.numel() for tensor in before.values())
    assert record.eval_loss_after < record.eval_loss_before
    assert record.steps == 6


def test_the_saved_model_stands_alone(first: Step) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(first.left.candidate)
    tokenizer = AutoTokenizer.from_pretrained(first.left.candidate)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(first.left.base).chat_template
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is my parcel?"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    reply = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert prompt["input_ids"].shape[1] < reply.shape[1] <= prompt["input_ids"].shape[1] + 4


def test_the_registry_holds_the_bytes_that_were_judged(first: Step) -> None:
    registry = registry_of(first.left)
    champion, decision = registry.champion(), GateDecision.read(first.left.record("gate"))
    assert registry.versions() == ["v1"]
    assert champion is not None
    assert (champion.version, champion.previous) == ("v1", None)
    assert champion.digest == decision.candidate_digest == tree_digest(first.left.candidate)
    assert registry.verify("v1").model_digest == champion.digest
    folder = first.left.data / "registry" / "versions" / "v1"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "quillmere-support" in card
    assert GateDecision.model_validate_json((folder / "decision.json").read_bytes()) == decision
    assert (folder / "model.safetensors").read_bytes() == (first.left.candidate / "model.safetensors").read_bytes()
    assert (folder / "chat_template.jinja").is_file()


def test_the_server_shows_the_named_state_and_a_task_for_each_stage(told: dict[str, list[dict[str, Any]]]) -> None:
    (run,) = told["flow_runs"]
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Published")
    assert sorted(task["name"] for task in told["task_runs"]) == sorted(["preflight", *STAGES, "held", "push", "record", "clean"])
    assert {task["state"]["name"] for task in told["task_runs"]} == {"Completed"}


def test_the_server_shows_an_artifact_for_each_stage_and_its_details(first: Step, told: dict[str, list[dict[str, Any]]]) -> None:
    shown = {artifact["key"]: artifact for artifact in told["artifacts"]}
    assert {name.replace("@", "-") for name in [*STAGES, "push"]} <= shown.keys()
    for name, kind in STAGES.items():
        assert shown[name.replace("@", "-")]["data"] == kind.read(first.left.record(name)).summary()
    assert "learning_rate: 0.01" in shown["parameters"]["data"]
    assert (shown["training"]["type"], shown["training"]["data"]) == ("progress", 100.0)
    assert shown["loss"]["type"] == "image"
    assert shown["loss"]["data"].startswith("data:image/svg+xml;base64,")
    assert "PASS" in shown["decision"]["data"]
    assert {row["split"] for row in json.loads(shown["splits"]["data"])} == {"train", "eval", "test"}
    reasons = {row["reason"]: row["rows"] for row in json.loads(shown["quarantine"]["data"])}
    assert reasons == ValidationReport.read(first.left.record("validate")).reasons
    assert json.loads(shown["expectations"]["data"])
    assert json.loads(shown["scores-candidate"]["data"])


# The runs after it, each on what the one before left


@pytest.fixture(scope="module")
def api(server: str) -> dict[str, str]:
    return {"PREFECT_API_URL": server}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def again(first: Step, live: Workspace, copies: Path) -> Step:
    return take(live, [sys.executable, "-c", PROBED_RUN], copies / "again")


@pytest.fixture(scope="module")
def unchanged_flow(again: Step, live: Workspace, copies: Path, api: dict[str, str]) -> Step:
    return take(live, [sys.executable, "-c", FLOW], copies / "unchanged_flow", env=api)


@pytest.fixture(scope="module")
def other_margin(unchanged_flow: Step, live: Workspace, copies: Path, api: dict[str, str]) -> Step:
    return take(live, [*REFIT, "run", "--set", "gate.kept.margin=0.9"], copies / "other_margin", env=api)


@pytest.fixture(scope="module")
def rejected(other_margin: Step, live: Workspace, copies: Path, api: dict[str, str]) -> Step:
    """Another model, and a floor that no loss can reach."""
    settings = ["--set", "train.learning_rate=0.02", "--set", "gate.learned.reply_loss.floor=0"]
    return take(live, [*REFIT, "run", *settings], copies / "rejected", env=api)


@pytest.fixture(scope="module")
def rejected_again(rejected: Step, live: Workspace, copies: Path) -> Step:
    return take(live, [sys.executable, "-c", PROBED_RUN], copies / "rejected_again")


@pytest.fixture(scope="module")
def inconclusive(rejected_again: Step, live: Workspace, copies: Path, api: dict[str, str]) -> Step:
    settings = ["--set", "gate.learned.reply_loss.floor=100", "--set", "gate.min_target_items=100000"]
    settings += ["--set", "gate.min_power=0"]
    return take(live, [*REFIT, "run", *settings], copies / "inconclusive", env=api)


@pytest.fixture(scope="module")
def second_version(inconclusive: Step, live: Workspace, copies: Path, api: dict[str, str]) -> Step:
    """With a row more that is there already, and the gate as at first."""
    append_row(live, 0)
    return take(live, [*REFIT, "run", "--set", "gate.min_target_items=5"], copies / "second_version", env=api)


def append_row(workspace: Workspace, number: int) -> None:
    """Add the first order once more; with a number other than 0 its question is another one."""
    path = workspace.data / "raw" / "orders.jsonl"
    row = _row(path, number)
    with path.open("a") as rows:
        rows.write(json.dumps({**row, "id": f"added-{number}"}) + "\n")


def row_for(split: str, workspace: Workspace) -> int:
    """The first number with which the row falls in a split."""
    section = load_params(workspace.params).prepare
    path = workspace.data / "raw" / "orders.jsonl"
    return next(
        number for number in range(1, 1000) if split_of(identify(_row(path, number)["messages"]).prompt_hash, section) == split
    )


def _row(path: Path, number: int) -> dict[str, Any]:
    with path.open() as rows:
        row: dict[str, Any] = json.loads(rows.readline())
    question = next(message for message in row["messages"] if message["role"] == "user")
    if number:
        question["content"] = f"our cat sat on the keyboard and now there is order {number}, which nobody here wants. what now?"
    return row


def test_a_second_run_is_unchanged_and_does_without_prefect(again: Step) -> None:
    assert again.done.returncode == 0, again.output
    assert json.loads(again.done.stdout)["state"] == "Unchanged"
    assert again.done.stderr.splitlines()[-1] == "False"
    assert again.ran == []
    assert champion_of(again.left) == "v1"


def test_the_flow_itself_takes_every_stage_as_unchanged(unchanged_flow: Step) -> None:
    assert unchanged_flow.done.returncode == 0, unchanged_flow.output
    assert unchanged_flow.done.stdout.startswith("Unchanged already published v1")
    assert unchanged_flow.ran == []
    for name in STAGES:
        assert f"{name}: unchanged" in unchanged_flow.output
    assert registry_of(unchanged_flow.left).versions() == ["v1"]


def test_another_threshold_runs_the_gate_and_its_page_only(other_margin: Step) -> None:
    assert other_margin.done.returncode == 0, other_margin.output
    assert other_margin.ran == ["gate", "report"]
    assert "params.yaml: gate.kept.margin: 1.0 -> 0.9" in other_margin.done.stderr
    assert "Unchanged" in other_margin.done.stdout
    assert registry_of(other_margin.left).versions() == ["v1"]


def test_another_learning_rate_runs_the_training_and_what_follows(first: Step, rejected: Step) -> None:
    assert rejected.ran == ["train", "champion", "evaluate@champion", "evaluate@candidate", "gate", "report"]
    old, new = (TrainedModel.read(step.left.record("train")) for step in (first, rejected))
    assert old.digest != new.digest
    assert old.train_sha256 == new.train_sha256
    champion = EvalReport.read(rejected.left.record("evaluate@champion"))
    as_candidate = EvalReport.read(first.left.record("evaluate@candidate"))
    assert champion.model_digest == old.digest
    assert champion.items_sha256 == as_candidate.items_sha256
    assert champion.metrics == as_candidate.metrics


def test_a_refused_candidate_changes_nothing_that_is_published(first: Step, rejected: Step) -> None:
    assert rejected.done.returncode == 3, rejected.output
    assert rejected.done.stdout.startswith("Rejected: learned/reply_loss: reply_loss")
    assert "Traceback" not in rejected.output
    decision = GateDecision.read(rejected.left.record("gate"))
    assert decision.verdict == "FAIL"
    assert [rule.rule for rule in decision.rules if rule.verdict != "PASS"] == ["learned/reply_loss"]
    assert (decision.champion_version, champion_of(rejected.left)) == ("v1", "v1")
    assert tree_digest(rejected.left.data / "registry") == tree_digest(first.left.data / "registry")


def test_push_refuses_what_the_gate_refused(rejected: Step) -> None:
    message = refused(execute(rejected.left, stage("push")), 1, "NotApprovedError")
    assert "the verdict is FAIL, wanted PASS; nothing was published" in message
    assert registry_of(rejected.left).versions() == ["v1"]


def test_a_run_after_a_refusal_without_a_change_is_unchanged(rejected_again: Step) -> None:
    assert rejected_again.done.returncode == 0, rejected_again.output
    answer = json.loads(rejected_again.done.stdout)
    assert answer["state"] == "Unchanged"
    assert "the last decision was FAIL" in answer["message"]
    assert rejected_again.done.stderr.splitlines()[-1] == "False"
    assert rejected_again.ran == []


def test_too_few_items_are_inconclusive(inconclusive: Step) -> None:
    assert inconclusive.done.returncode == 4, inconclusive.output
    assert inconclusive.done.stdout.startswith("Inconclusive: integrity: too few items to judge: ")
    assert inconclusive.ran == ["gate", "report"]
    assert registry_of(inconclusive.left).versions() == ["v1"]


def test_the_next_approved_candidate_replaces_the_champion(second_version: Step) -> None:
    assert second_version.done.returncode == 0, second_version.output
    assert second_version.done.stdout.startswith("Published: published v2 ")
    assert second_version.ran == ["validate", "drift", "prepare", "gate", "report"]
    registry = registry_of(second_version.left)
    assert (registry.versions(), champion_of(second_version.left)) == (["v1", "v2"], "v2")
    assert [(move.version, move.previous) for move in registry.history()] == [("v1", None), ("v2", "v1")]
    assert registry.verify("v2").model_digest == TrainedModel.read(second_version.left.record("train")).digest


def test_a_row_that_prepare_drops_trains_and_scores_nothing(inconclusive: Step, second_version: Step) -> None:
    assert second_version.ran == ["validate", "drift", "prepare", "gate", "report"], "the gate ran for its own parameter"
    old, new = (PreparedDataset.read(step.left.record("prepare")) for step in (inconclusive, second_version))
    assert (new.n_accepted, new.dropped["duplicate"]) == (old.n_accepted + 1, old.dropped["duplicate"] + 1)
    assert new.splits == old.splits


@pytest.mark.parametrize(
    ("split", "stale"), [("train", ["train"]), ("eval", ["train"]), ("test", EVALUATIONS)], ids=["train", "eval", "test"]
)
def test_a_row_makes_stale_what_depends_on_its_split(second_version: Step, tmp_path: Path, split: str, stale: list[str]) -> None:
    """DVC looks at bytes, whoever wrote them: the two stages that the row passes through are called here, which is faster."""
    workspace = Workspace(Path(shutil.copytree(second_version.left.root, tmp_path / "workspace")))
    params = load_params(workspace.params)
    append_row(workspace, row_for(split, workspace))
    validate(params.validation, params.guidelines, workspace)
    old = PreparedDataset.read(workspace.record("prepare"))
    new = prepare(params.prepare, workspace.accepted, workspace.prepared, workspace.record("prepare"))
    assert {name for name in new.splits if new.splits[name] != old.splits[name]} == {split}
    assert new.splits[split].rows == old.splits[split].rows + 1
    assert changed_stages(workspace, list(STAGES)) == ["validate", "drift", "prepare", *stale, "report"]


def test_a_version_that_was_taken_back_is_not_published_again(second_version: Step, api: dict[str, str], tmp_path: Path) -> None:
    """Though the gate would pass it once more: no fault of the run, which would be told each night."""
    place = Workspace(Path(shutil.copytree(second_version.left.root, tmp_path / "workspace")))
    assert execute(place, [*REFIT, "rollback", "--reason", "rude replies"]).returncode == 0
    done = execute(place, [*REFIT, "run", "--set", "gate.kept.margin=0.8"], env=api)
    assert done.returncode == 6, done.stdout + done.stderr
    assert done.stdout.startswith("NotPublished: candidate ")
    assert "rude replies" in done.stdout
    assert champion_of(place) == "v1"
