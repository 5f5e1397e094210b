import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import errors, process
from tasks.errors import DataError, ParamsError, PipelineError
from tasks.evaluation_records import ChampionRecord
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import format_error, parse_error, stage_main

ROOT = Path(__file__).parents[2]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PipelineError)]
RECORD = ChampionRecord(registry="local", version=None, digest=None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_between_processes(kind: type[PipelineError]) -> None:
    error = kind("a.jsonl:3: found x, wanted y\nsecond line\n\n  fourth, indented")
    for copy in (pickle.loads(pickle.dumps(error)), parse_error(["noise", *format_error(error).split("\n"), "more noise"])):
        assert type(copy) is kind
        assert str(copy) == str(error)
        assert copy.exit_code == (2 if issubclass(kind, errors.InputError) else 1)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    assert len(KINDS) >= 11
    assert errors.__doc__ is not None
    for kind in KINDS:
        assert f"{kind.__name__} " in errors.__doc__


@given(st.text(st.characters(codec="utf-8")), st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"))))
def test_any_message_comes_back_from_any_log(message: str, log: list[str]) -> None:
    before = [line for line in log if not line.startswith(process.ERROR_PREFIX)]
    found = parse_error([*before, *format_error(DataError(message)).split("\n")])
    assert type(found) is DataError
    assert str(found) == message


def test_the_last_error_of_a_log_counts() -> None:
    lines = ["refit: DataError: first", "  more", "refit: ParamsError: second", "  of two", "Traceback", "  not ours"]
    found = parse_error(lines)
    assert type(found) is ParamsError
    assert str(found) == "second\nof two"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "refit: ",
        "refit: Error",
        "refit: ValueError: x",
        "refit: PipelineErrors: x",
        " refit: DataError: x",
        "DataError: x",
        "refit: __doc__: x",
    ],
)
def test_a_line_of_something_else_is_no_error(line: str) -> None:
    assert parse_error([line, "  indented"]) is None


def test_no_lines_no_error() -> None:
    assert parse_error([]) is None


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace, and this process as the program of a stage in it; it must not die with pytest's parent."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    monkeypatch.setattr(sys, "argv", ["stage", "--workspace", str(tmp_path)])
    monkeypatch.chdir("/")
    return tmp_path


def test_a_stage_works_in_its_workspace_and_says_what_it_did(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    def work(found: Workspace, params: Params) -> ChampionRecord:
        seen.extend([found.root, Path.cwd(), params.push.name])
        return RECORD

    assert stage_main("What it does.\n\nMore.", work) == 0
    assert seen == [workspace, workspace, "quillmere-support"]
    assert capsys.readouterr() == (RECORD.summary() + "\n", "")


def test_an_error_is_told_on_stderr_without_a_traceback_and_ends_with_its_code(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Workspace, __: Params) -> ChampionRecord:
        raise DataError("a.jsonl:3: found x\nwanted y")

    assert stage_main(None, work) == 2
    assert capsys.readouterr() == ("", "refit: DataError: a.jsonl:3: found x\n  wanted y\n")


def test_faulty_params_end_a_stage_before_it_works(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "params.yaml").write_text("train: {}\n")
    assert stage_main(None, lambda _workspace, _params: pytest.fail("worked")) == 2
    assert isinstance(parse_error(capsys.readouterr().err.splitlines()), ParamsError)


def test_without_a_workspace_a_stage_says_what_it_looked_for(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "dvc.yaml").unlink()
    assert stage_main(None, lambda _workspace, _params: pytest.fail("worked")) == 2
    assert "no workspace here or above (wanted a folder with params.yaml and dvc.yaml)" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(workspace: Path) -> None:
    def work(_: Workspace, __: Params) -> ChampionRecord:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage_main(None, work)
