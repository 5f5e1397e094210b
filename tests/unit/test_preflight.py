"""What is asked before a run, and that every fault is told at once."""

import shutil
import subprocess
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tasks import preflight as module
from tasks.errors import DataError, InputError, NetworkError, ParamsError, PipelineError, RegistryError
from tasks.evaluation_records import SuitesReport, SuiteTask
from tasks.params import Params
from tasks.paths import Workspace
from tasks.preflight import before_training, preflight
from tasks.publishing_sections import Recording
from tasks.records import PreparedDataset
from tasks.sections import FolderBase
from tests.unit.publishing import PARAMS, approve, make_workspace

NOWHERE = Recording(git_branch=None, git_remote=None, dvc_remote=None, dataset_repo_id=None)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Workspace, Params]:
    """The shipped raw data, and the records of a run."""
    workspace, params = make_workspace(tmp_path / "workspace")
    approve(workspace, b"one", None)
    shutil.copytree(PARAMS.parent / "data" / "raw", workspace.data / "raw")
    return workspace, params


def changed(params: Params, **sections: Any) -> Params:
    return params.model_copy(update=sections)


def fault_of(place: tuple[Workspace, Params], kind: type[PipelineError], match: str) -> None:
    with pytest.raises(kind, match=match):
        preflight(*place)


def test_a_workspace_in_order_has_no_fault(place: tuple[Workspace, Params]) -> None:
    preflight(*place)


def test_one_fault_keeps_its_type(place: tuple[Workspace, Params]) -> None:
    shutil.rmtree(place[0].data / "raw")
    fault_of(place, DataError, r"raw: not a folder, wanted the one with the conversations")


def test_every_fault_is_told_at_once(place: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params = place
    (workspace.data / "raw" / "policy.yaml").write_text("topics: 3\n")
    (workspace.data / "registry").write_text("a file")
    base = FolderBase(source="folder", chat_template=None, path="elsewhere", sha256="0" * 64)
    params = changed(params, base=base, record=NOWHERE.model_copy(update={"git_branch": "models"}))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1 << 20))
    monkeypatch.setattr(module, "_available_memory", lambda: 1 << 20)
    with pytest.raises(InputError) as caught:
        preflight(workspace, params)
    first, *faults = str(caught.value).splitlines()
    assert first == "this run could not end well; nothing was run"
    for text in (
        "policy.yaml: wanted topics of",
        "base.path elsewhere: no config.json there",
        "registry: not a folder that may be written",
        "record.git_branch: ",
        "0.0 GB free, a run may need 2.0 GB",
    ):
        assert [fault for fault in faults if text in fault], text


def test_trl_is_asked_about_what_only_it_knows(place: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params = place
    asked = []

    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        asked.append(command[1:])
        return subprocess.CompletedProcess(command, 2, "", "noise\nrefit: ParamsError: train.sft.x: no such field\n")

    monkeypatch.setattr(subprocess, "run", run)
    preflight(workspace, params)
    assert not asked
    unsure = changed(params, train=params.train.model_copy(update={"sft": {"x": 1}}))
    with pytest.raises(ParamsError, match=r"^train\.sft\.x: no such field$"):
        preflight(workspace, unsure)
    assert asked == [["-m", "tasks.sft_config"]]


def test_a_place_of_the_record_must_exist(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run([*git, *words], cwd=workspace.root, check=True, capture_output=True)
    record = NOWHERE.model_copy(update={"git_branch": "models"})
    preflight(workspace, changed(params, record=record))
    record = record.model_copy(update={"git_remote": "origin"})
    fault_of((workspace, changed(params, record=record)), InputError, "record.git_remote origin: git has no such remote")


def test_what_another_try_may_cure_stays_so(place: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    def away(workspace: Workspace, params: Params) -> str:
        raise NetworkError("the Hub is away")

    monkeypatch.setitem(module._CHECKS, "registry", away)
    fault_of(place, NetworkError, "the Hub is away")
    shutil.rmtree(place[0].data / "raw")
    fault_of(place, InputError, "the Hub is away")


def test_a_registry_that_cannot_be_written_is_no_input_error(place: tuple[Workspace, Params]) -> None:
    (place[0].data / "registry").write_text("a file")
    fault_of(place, RegistryError, "not a folder that may be written")


def test_full_training_needs_more_memory(place: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params = place
    monkeypatch.setattr(module, "_available_memory", lambda: 2 << 30)
    preflight(workspace, params)
    full = changed(params, train=params.train.model_copy(update={"method": "full"}))
    fault_of((workspace, full), InputError, r"2.0 GB of memory are free, training needs about 3.0 GB; .* train.method: lora")


def test_a_record_of_another_base_model_does_not_count(place: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was tried before may have been far too large."""
    workspace, params = place
    monkeypatch.setattr(module, "_available_memory", lambda: 1 << 20)
    fault_of(place, InputError, r"0.0 GB of memory are free, training needs about 1.8 GB")
    monkeypatch.setattr(module, "check_reachable", lambda base: None)
    preflight(workspace, changed(params, base=params.base.model_copy(update={"package": "another==1"})))


def test_every_task_must_have_the_items_that_its_margin_needs(place: tuple[Workspace, Params]) -> None:
    workspace = place[0]
    whole: dict[str, Any] = {"suite": "general", "entry": "ours", "metric": "acc", "version": "1", "num_fewshot": None}
    whole |= {"apply_chat_template": False, "limit": None}
    tasks = [SuiteTask.model_validate(whole | {"task": task, "n_items": n}) for task, n in (("facts", 800), ("few", 22))]
    SuitesReport(tasks=tasks, items_sha256="").write(workspace.record("suites"))
    fault_of(place, InputError, r"task_margin of few: with 22 general items and a margin of 12 points .* about 0 % of the time")
    SuitesReport(tasks=tasks[:1], items_sha256="").write(workspace.record("suites"))
    preflight(*place)


def test_what_only_prepare_tells_is_asked_before_the_training(
    place: tuple[Workspace, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: rows that were added since do not stand in the last record."""
    workspace, params = place
    few = PreparedDataset.read(workspace.record("prepare"))
    few.model_copy(update={"splits": {**few.splits, "test": few.splits["test"].model_copy(update={"rows": 69})}}).write(
        workspace.record("prepare")
    )
    preflight(workspace, params)
    with pytest.raises(InputError, match=r"gate.min_target_items is 100, and there are 69: no model could pass"):
        before_training(workspace, params)
    before_training(workspace, changed(params, gate=params.gate.model_copy(update={"min_power": 0})))
    strict = params.gate.champion.model_copy(update={"margin": 0.04})
    strict_gate = params.gate.model_copy(update={"champion": strict, "min_target_items": 60})
    with pytest.raises(InputError, match=r"gate.champion.margin is 0.04, and 69 test rows leave a loss of 0.042 possible"):
        before_training(workspace, changed(params, gate=strict_gate))
    better = strict_gate.model_copy(update={"champion": strict.model_copy(update={"promote_if": "better"})})
    before_training(workspace, changed(params, gate=better))
    few.write(workspace.record("prepare"))
    monkeypatch.setattr(module, "_available_memory", lambda: 1 << 20)
    with pytest.raises(InputError, match="of memory are free"):
        before_training(workspace, params)


def test_a_container_may_have_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(module, "_MEMORY", machine)
    monkeypatch.setattr(module, "_LIMIT", limit)
    assert module._available_memory() is None
    machine.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert module._available_memory() == 8000 << 10
    for text, wanted in (("max\n", 8000 << 10), ("4096\n", 4096), (f"{1 << 40}\n", 8000 << 10)):
        limit.write_text(text)
        assert module._available_memory() == wanted
