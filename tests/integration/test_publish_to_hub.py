"""`refit run` with the Hub as its registry: the real client, a loopback stand-in, the token in a Secret block of a real server.

The runs follow each other as a chain of fixtures; each begins where the one before ended.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import ModelCard

from flows.reporting import final_state
from flows.token import hub_token
from tasks.evaluation_records import GateDecision
from tasks.files import hash_tree, sha256_file, tree_digest
from tasks.paths import Workspace
from tasks.records import PushReceipt
from tests.conftest import edit_params
from tests.hub import Fault, Hub
from tests.hub_client import REPO_ID, open_registry_of, use_client
from tests.integration.running import REFIT, Done, Step, execute, stage
from tests.webhook import listening

pytestmark = pytest.mark.slow

SAVE_BLOCKS = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
token, url = sys.argv[1:]
Secret(value=token).save("refit-hf-token", overwrite=True)
message = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="tests", url=url, json_data=message).save("listener", overwrite=True)
"""
LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
name, revision, folder = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(name, revision=revision)
wanted = AutoModelForCausalLM.from_pretrained(folder).state_dict()
assert model.state_dict().keys() == wanted.keys()
assert all(value.equal(wanted[key]) for key, value in model.state_dict().items())
tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
messages = [{"role": "user", "content": "hi"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
model.generate(**inputs, max_new_tokens=3, do_sample=False)
"""


LOAD_ADAPTER = """
import sys
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
name, revision, folder, base = sys.argv[1:]
model = AutoPeftModelForCausalLM.from_pretrained(name, revision=revision)
wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).state_dict()
assert model.state_dict().keys() == wanted.keys()
assert all(value.equal(wanted[key]) for key, value in model.state_dict().items())
"""
BASE_ID = "bases/tiny"


class Place(NamedTuple):
    """A workspace that publishes to a hub; `env` has what its commands need, but for the token."""

    workspace: Workspace
    hub: Hub
    env: dict[str, str]
    outputs: list[str]
    messages: list[dict[str, str]]

    def run(self, *command: str, **more: str) -> Done:
        done = execute(self.workspace, command, env={**self.env, **more})
        self.outputs.append(done.stdout + done.stderr)
        return done

    def refit(self, *words: str, **more: str) -> Any:
        done = self.run(*REFIT, *words, "--json", **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(first: Step, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hub")
    workspace = Workspace(Path(shutil.copytree(first.left.root, folder / "workspace", symlinks=True)))
    blocks = ["custom-webhook/listener", "custom-webhook/nobody-made-it"]
    edit_params(workspace, {"push.registry": "hub", "push.repo_id": REPO_ID, "notify.blocks": blocks})
    messages: list[dict[str, str]] = []
    with pytest.MonkeyPatch.context() as patch, Hub(folder / "stand-in") as hub, listening(messages) as url:
        use_client(patch, folder / "cache of the tests")
        env = {
            "PREFECT_API_URL": server,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
        }
        subprocess.run([sys.executable, "-c", SAVE_BLOCKS, hub.token, url], env={**os.environ, **env}, check=True)
        yield Place(workspace, hub, env, [], messages)


@pytest.fixture(scope="module")
def published(place: Place) -> dict[str, Any]:
    """With the token in the block only."""
    answer: dict[str, Any] = place.refit("run")
    return answer


@pytest.fixture(scope="module")
def overtaken(published: dict[str, Any], place: Place, tiny_base: Path) -> dict[str, Any]:
    """Somebody else publishes v2 while this run is about to publish its own."""
    other = Path(shutil.copytree(tiny_base, place.workspace.root.parent / "other"))
    config = json.loads((other / "config.json").read_text()) | {"made_by": "somebody else"}
    (other / "config.json").write_text(json.dumps(config))

    def overtake(number: int, method: str, path: str) -> Fault | None:
        if method == "POST" and "/branch/refit-staging-" in path:
            place.hub.fault = None
            open_registry_of(place.hub).publish(other, tree_digest(other), {"README.md": b"# other\n"}, "v1", "the faster one")
        return None

    place.hub.fault = overtake
    answer: dict[str, Any] = place.refit("run", "--set", "train.learning_rate=0.011")
    return answer


def test_the_candidate_is_published_with_the_token_of_the_block(place: Place, published: dict[str, Any]) -> None:
    assert published["state"] == "Published"
    assert published["message"].endswith(f"to hub:{REPO_ID}")
    assert place.hub.private(REPO_ID)
    files = place.hub.files(REPO_ID, "v1")
    documents = {"README.md", "decision.json", "training.json", "data_profile.json", "dvc.lock", "params.yaml"}
    model = {name for name in files if name not in documents | {"manifest.json", "history.jsonl", ".gitattributes"}}
    assert documents < set(files)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= model
    manifest = json.loads(files["manifest.json"])
    assert f"({manifest['model_digest'][:12]})" in published["message"]
    assert f'name = "{REPO_ID}"' in files["README.md"].decode()


def test_the_client_of_the_hub_reads_the_card(place: Place, published: dict[str, Any]) -> None:
    data: Any = ModelCard(place.hub.files(REPO_ID, "v1")["README.md"].decode()).data
    assert (data.license, data.library_name, data.model_name) == ("apache-2.0", "transformers", "quillmere-support")
    told = {(result.dataset_type, result.metric_type): result.metric_value for result in data.eval_results}
    assert set(told) >= {("target", "reply_loss"), ("general", "acc")}
    assert told["target", "reply_loss"] > 1 > told["general", "acc"] >= 0


def test_plain_transformers_loads_what_was_published(place: Place, published: dict[str, Any], tmp_path: Path) -> None:
    registry = open_registry_of(place.hub)
    registry.fetch("v1", tmp_path / "v1")
    done = place.run(sys.executable, "-c", LOAD, REPO_ID, "v1", str(tmp_path / "v1"), HF_TOKEN=place.hub.token)
    assert done.returncode == 0, done.stderr


def test_overtaken_it_judges_again_and_publishes_over_the_new_champion(place: Place, overtaken: dict[str, Any]) -> None:
    assert overtaken["state"] == "Published"
    assert "published v3 " in overtaken["message"]
    history = open_registry_of(place.hub).history()
    assert [(move.version, move.previous) for move in history] == [("v1", None), ("v2", "v1"), ("v3", "v2")]
    decision = json.loads(place.hub.files(REPO_ID, "v3")["decision.json"])
    assert decision["champion_version"] == "v2"
    assert any("judged anew, against the new champion" in output for output in place.outputs)
    assert hash_tree(place.workspace.candidate)["model.safetensors"] in place.hub.files(REPO_ID, "v3")["manifest.json"].decode()


def test_each_run_sends_one_message(place: Place, overtaken: dict[str, Any]) -> None:
    before = len(place.messages)
    place.refit("run", HF_TOKEN=place.hub.token)
    assert len(place.messages) == before, "Unchanged is silent"
    assert [message["subject"] for message in place.messages[:2]] == ["quillmere-support: Published"] * 2
    first, page, run = place.messages[0]["body"].splitlines()
    assert first.startswith("published v1 (")
    assert page == f"page: {place.workspace.report}"
    assert "/runs/flow-run/" in run
    assert "notify.blocks custom-webhook/nobody-made-it: the message was not sent" in place.outputs[0]


def test_a_refusal_and_a_failure_are_told_with_their_reasons(place: Place, overtaken: dict[str, Any], tmp_path: Path) -> None:
    workspace = Workspace(Path(shutil.copytree(place.workspace.root, tmp_path / "refused", symlinks=True)))
    began, env = len(place.messages), {**place.env, "HF_TOKEN": place.hub.token}
    strict = "gate.learned.reply_loss.min_gain=50"
    assert execute(workspace, [*REFIT, "run", "--set", strict], env=env).returncode == 3
    shutil.rmtree(workspace.data / "raw")
    assert execute(workspace, [*REFIT, "run"], env=env).returncode == 2
    rejected, failed = place.messages[began:]
    assert rejected["subject"] == "quillmere-support: Rejected"
    assert rejected["body"].startswith("learned/reply_loss: ")
    assert f"\npage: {workspace.report}\nrun: " in rejected["body"]
    assert failed["subject"] == "quillmere-support: Failed"
    assert "data/raw: not a folder" in failed["body"]
    assert "page: " not in failed["body"]


def test_the_prepared_data_are_published_beside_it(place: Place, overtaken: dict[str, Any]) -> None:
    """By the stage alone; twice, to find that the second changes nothing."""
    workspace = Workspace(Path(shutil.copytree(place.workspace.root, place.workspace.root.parent / "with data", symlinks=True)))
    edit_params(workspace, {"record.dataset_repo_id": "quillmere/conversations"})
    for _ in range(2):
        done = execute(workspace, stage("record"), env={**place.env, "HF_TOKEN": place.hub.token})
        assert done.returncode == 0, done.stderr
        assert "v3 written down: dataset quillmere/conversations" in done.stdout
    data: dict[str, Any] = {"repo_id": "quillmere/conversations", "repo_type": "dataset"}
    assert place.hub.private(**data)
    assert place.hub.tags(**data) == {"quillmere-support-v3": place.hub.head(**data)}
    assert place.hub.commits(**data) == ["quillmere-support-v3", "initial commit"]
    files = place.hub.files(**data)
    assert {name for name in files if not name.startswith(".")} == {"README.md", "train.parquet", "eval.parquet", "test.parquet"}
    assert files["train.parquet"] == (workspace.prepared / "train.parquet").read_bytes()


def test_a_proposed_candidate_awaits_approval(place: Place, overtaken: dict[str, Any]) -> None:
    receipt = PushReceipt.read(place.workspace.record("push"))
    proposed = receipt.model_copy(update={"version": None, "published": False, "pull_request": "http://hub/discussions/1"})
    state = final_state(GateDecision.read(place.workspace.record("gate")), proposed)
    assert (state.name, state.is_completed()) == ("AwaitingApproval", True)
    assert state.message == f"{receipt.digest[:12]} waits to be merged in http://hub/discussions/1"


def test_then_nothing_is_to_be_done(place: Place, overtaken: dict[str, Any]) -> None:
    head = place.hub.head(REPO_ID)
    answer = place.refit("run", HF_TOKEN=place.hub.token)
    assert answer["state"] == "Unchanged"
    assert "the champion is v3" in answer["message"]
    assert place.hub.head(REPO_ID) == head


def test_versions_and_show_from_the_hub(place: Place, overtaken: dict[str, Any]) -> None:
    listed = place.refit("versions", HF_TOKEN=place.hub.token)["versions"]
    assert [(version["version"], version["champion"]) for version in listed] == [("v1", False), ("v2", False), ("v3", True)]
    shown = place.refit("show", "v3", HF_TOKEN=place.hub.token)
    assert shown["decision"]["verdict"] == "PASS"
    assert shown["training"]["digest"] == shown["digest"]
    assert place.refit("show", "v2", HF_TOKEN=place.hub.token)["decision"] is None


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_a_token_that_may_not_is_one_line(place: Place, overtaken: dict[str, Any], token: str) -> None:
    """Through the stage itself: the flow would take the token of the block."""
    done = place.run(*stage("push"), HF_TOKEN=token)
    assert done.returncode == 1
    assert done.stderr.startswith(f"refit: RegistryError: hub:{REPO_ID}: cannot read: 401 ")
    assert done.stderr.endswith(f"set HF_TOKEN to a valid token with access to {REPO_ID}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("needed", [True, False])
def test_a_child_has_the_token_of_the_environment_only_where_it_needs_it(monkeypatch: pytest.MonkeyPatch, needed: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_shell")
    with hub_token(needed):
        child = subprocess.run(["printenv", "HF_TOKEN"], capture_output=True, text=True)
    assert child.stdout.strip() == ("hf_of_the_shell" if needed else "")
    assert os.environ["HF_TOKEN"] == "hf_of_the_shell"


def test_an_adapter_of_a_base_of_the_hub_is_judged_and_published_alone(
    place: Place, overtaken: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    from huggingface_hub import HfApi

    api = HfApi(place.hub.url, token=place.hub.token)
    api.create_repo(BASE_ID)
    commit = api.upload_folder(repo_id=BASE_ID, folder_path=tiny_base)
    base = {"source": "hub", "repo_id": BASE_ID, "revision": commit.oid, "chat_template": None}
    base["sha256"] = sha256_file(tiny_base / "model.safetensors")
    settings = [f"base={json.dumps(base)}", "train.method=lora", "train.merge=false", "train.lora.layers_to_transform=null"]
    settings += ["train.max_steps=30", "train.eval_steps=30", "gate.learned.reply_loss.min_gain=0.01"]
    answer = place.refit("run", *(word for setting in settings for word in ("--set", setting)))
    assert answer["state"] == "Published", answer
    files = place.hub.files(REPO_ID, "v4")
    assert "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == BASE_ID
    assert json.loads(files["adapter_config.json"])["revision"] == commit.oid
    assert b"AutoPeftModelForCausalLM" in files["README.md"]
    assert b"library_name: peft" in files["README.md"]
    where = (REPO_ID, "v4", str(place.workspace.candidate), str(place.workspace.base))
    done = place.run(sys.executable, "-c", LOAD_ADAPTER, *where, HF_TOKEN=place.hub.token)
    assert done.returncode == 0, done.stderr


def test_the_token_stands_nowhere(place: Place, overtaken: dict[str, Any], starting: Any) -> None:
    token, read = place.hub.token.encode(), 0
    folders = [place.workspace.root, Path(place.env["HF_HOME"]), starting.log.parent, Path(os.environ["PREFECT_HOME"])]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        read += 1
        assert token not in path.read_bytes(), path
    assert read > 100
    assert (starting.log.parent / "prefect.db").is_file()
    assert not [output for output in place.outputs if place.hub.token in output]
    assert not [name for name, data in place.hub.files(REPO_ID).items() if token in data]
