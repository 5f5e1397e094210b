"""The command `refit`: exit codes, what stands on which stream, and what is never loaded."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flows import cli, commands, server_status, status
from tasks.errors import DataError, NetworkError, PipelineError, StageKilled
from tasks.evaluation_records import GateDecision, RuleResult, Verdict
from tasks.files import parse_yaml
from tasks.overrides import override
from tasks.paths import Workspace
from tasks.repro import STAGES

ROOT = Path(__file__).parents[2]
COMMANDS = (["run"], ["status"], ["gate", "explain"])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The shipped parameters and stages without data, as current folder."""
    root = tmp_path / "workspace"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    monkeypatch.chdir(root)
    for name in ("PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "as it was")  # `run` sets them if they are not
    return Workspace(root)


def decide(workspace: Workspace, verdict: Verdict) -> GateDecision:
    rule = RuleResult(
        rule="learned/guideline_score",
        verdict=verdict,
        unit="points",
        value=0.1,
        lower=0.05,
        threshold=0.2,
        n=126,
        reason="the <reason>",
    )
    return GateDecision(
        verdict=verdict,
        rules=[rule],
        candidate_digest="c" * 64,
        base_digest="b" * 64,
        champion_version=None,
        champion_digest=None,
        best_version=None,
        is_best=True,
        items_sha256="i" * 64,
    ).write(workspace.record("gate"))


def spoil(workspace: Workspace) -> None:
    tree = parse_yaml(workspace.params.read_text())
    tree["train"]["learning_rate"] = -1
    tree["train"]["learning_rat"] = 0.1
    del tree["gate"]["kept"]["margin"]
    workspace.params.write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize("command", [["run"], ["status"]])
def test_every_fault_of_the_parameters_is_told_and_ends_with_2(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    spoil(workspace)
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, *faults = err.splitlines()
    assert first == "refit: ParamsError: params.yaml: 3 faults; nothing was run"
    assert [fault.partition(":")[0].strip() for fault in sorted(faults)] == [
        "gate.kept.margin",
        "train.learning_rat",
        "train.learning_rate",
    ]


@pytest.mark.parametrize("setting", ["train.learning_rate", "train.nonsense=1", "train.learning_rate=-1", "train.seed=[", "=1"])
def test_a_setting_that_does_not_fit_ends_with_2_and_changes_nothing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    before = workspace.params.read_bytes()
    assert cli.main(["run", "--set", "train.seed=8", "--set", setting]) == 2
    assert "refit: ParamsError: " in capsys.readouterr().err
    assert workspace.params.read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_outside_a_workspace_every_command_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (command, [*command, "--workspace", str(tmp_path / "absent")]):
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "no workspace here or above (wanted a folder with params.yaml and dvc.yaml)" in err


def test_without_a_decision_there_is_nothing_to_explain(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", "explain"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "the stage gate has not finished; run `dvc repro` or `refit run`" in err


def test_a_decision_is_explained_as_text_and_as_json(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decision = decide(workspace, "FAIL")
    monkeypatch.chdir("/")
    where = ["--workspace", str(workspace.data / "reports")]
    assert cli.main(["gate", "explain", *where]) == 0
    assert "learned/guideline_score: the <reason>" in capsys.readouterr().out
    assert cli.main(["gate", "explain", "--json", *where]) == 0
    out, err = capsys.readouterr()
    assert GateDecision.model_validate_json(out) == decision
    assert err == ""


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """DVC's answer, without DVC: the stages that are stale, none unless a test adds one."""
    stale: list[str] = []
    monkeypatch.setattr(status, "stale_stages", lambda workspace, params, stages: [s for s in stages if s in stale])
    return stale


def test_the_status_is_told_as_text_and_as_json(
    workspace: Workspace, settled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    decide(workspace, "FAIL")
    settled.append("train")
    assert cli.main(["status"]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if not line.startswith("last"))
    assert lines == dict.fromkeys(STAGES, "up to date") | {
        "train": "to run",
        "champion": "none yet",
        "data": "as the last run saw them",
        "server": "none known: set PREFECT_API_URL, or `refit serve`",
    }
    assert cli.main(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "stale": ["train"],
        "decision": "FAIL",
        "waits_for_approval": None,
        "champion": None,
        "candidate_is_champion": False,
        "data_wait": False,
        "server": None,
    }


class Runs(list[Workspace]):
    """The workspaces in which `run` started the flow; what it ends with."""

    end: tuple[str, str] | BaseException = ("Published", "v1")
    asked: dict[str, Any]

    def __call__(self, load: Callable[[], Any], workspace: str, **asked: Any) -> tuple[str, str]:
        self.append(Workspace(Path(workspace)))
        self.asked = asked
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A flow that does nothing, in the place of Prefect's."""
    console, flow = ModuleType("flows.console"), Runs()
    console.run_in_process = flow  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.console", console)
    return flow


def test_what_waits_for_a_person_is_told(workspace: Workspace, settled: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    decide(workspace, "PASS")
    assert cli.main(["status"]) == 0
    assert "waits" not in capsys.readouterr().out
    override(workspace.params, ["push.require_approval=true"])
    assert cli.main(["status"]) == 0
    assert "PASS; candidate cccccccccccc waits: `refit approve cccccccccccc --reason WHY`\n" in capsys.readouterr().out
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waits_for_approval"] == "c" * 64


def test_a_server_that_is_silent_hides_nothing_else(
    workspace: Workspace, settled: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(api: str, name: str) -> None:
        raise NetworkError(f"{api}: the Prefect server does not tell")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr(server_status, "read_server_status", silent)
    decide(workspace, "FAIL")
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "FAIL\n" in out
    assert "http://127.0.0.1:1/api: the Prefect server does not tell\n" in out


def test_a_stage_that_is_forced_runs_though_nothing_changed(workspace: Workspace, settled: list[str], runs: Runs) -> None:
    decide(workspace, "FAIL")
    assert cli.main(["run", "--dry-run"]) == 0
    assert runs == []
    assert cli.main(["run", "--force", "gate", "--dry-run", "--reason", "to see"]) == 0
    assert runs == [workspace]
    assert runs.asked == {"force": "gate", "dry_run": True, "reason": "to see"}


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_a_run_that_would_do_nothing_does_not_start(
    workspace: Workspace, settled: list[str], runs: Runs, capsys: pytest.CaptureFixture[str], verdict: Verdict
) -> None:
    decide(workspace, verdict)
    assert cli.main(["run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"state": "Unchanged", "message": f"nothing changed since the last run; the last decision was {verdict}"}
    assert runs == []
    settled.append("gate")
    assert cli.main(["run"]) == 0
    assert runs == [workspace]


def test_an_approved_candidate_that_was_not_published_is_run_again(workspace: Workspace, settled: list[str], runs: Runs) -> None:
    decide(workspace, "PASS")
    assert cli.main(["run"]) == 0
    assert runs == [workspace]


def test_every_end_of_a_run_has_its_exit_code(
    workspace: Workspace, settled: list[str], runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    for state, code in {"Published": 0, "Unchanged": 0, "Rejected": 3, "Inconclusive": 4}.items():
        runs.end = (state, "why\nso")
        assert cli.main(["run"]) == code
        assert capsys.readouterr() == (f"{state}: why\nso\n", "")
        assert cli.main(["run", "--json"]) == code
        assert json.loads(capsys.readouterr().out) == {"state": state, "message": "why\nso"}


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("x"), 2), (StageKilled("x"), 1), (PipelineError("x"), 1), (KeyboardInterrupt(), 130)]
)
def test_an_error_is_one_line_on_stderr(
    workspace: Workspace, settled: list[str], runs: Runs, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    runs.end = error
    assert cli.main(["run", "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("refit: ")


def test_a_setting_is_written_before_the_run_and_told(
    workspace: Workspace, settled: list[str], runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--json", "--set", "train.seed=8"]) == 0
    out, err = capsys.readouterr()
    assert err == "params.yaml: train.seed: 7 -> 8\n"
    assert json.loads(out)["state"] == "Published"
    assert parse_yaml(workspace.params.read_text())["train"]["seed"] == 8


def all_commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command with its line of help, groups included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            help_of = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield (*path, name), help_of.get(name, "")
                yield from all_commands(child, (*path, name))


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    found = dict(all_commands(cli._parser()))
    assert {tuple(command) for command in COMMANDS} <= set(found)
    for path, line in found.items():
        assert line, f"{path}: no help in the list of commands"
    for path in ((), *found):
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main([*path, "--help"])
        assert capsys.readouterr().out.startswith(" ".join(["usage: refit", *path]))


def test_help_of_run_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for state, code in commands.EXIT_CODES.items():
        assert str(code) in text
        assert re.sub("(?<=[a-z])(?=[A-Z])", " ", state).lower() in text


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--version"])
    assert f'version = "{capsys.readouterr().out.split()[1]}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["gate"], ["status", "--nonsense"], ["run", "--set"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(arguments)
    assert "usage: refit" in capsys.readouterr().err


def test_a_replay_takes_thresholds_only_and_writes_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
    assert cli.main(["gate", "replay", "--set", "train.seed=1"]) == 2
    assert "is not of the section gate, so the stored scores do not tell" in capsys.readouterr().err
    assert cli.main(["gate", "replay", "--set", "gate.learned.guideline_score.min_gain=-1"]) == 2
    assert "gate.learned.guideline_score.min_gain: found -1" in capsys.readouterr().err
    assert cli.main(["gate", "replay", "--set", "gate.learned.guideline_score.min_gain=0.1"]) == 2
    assert "the stage evaluate-base has not finished" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()} == before
