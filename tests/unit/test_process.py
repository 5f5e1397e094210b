import os
import pickle
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import errors, process
from tasks.errors import DataError, ParamsError, PipelineError
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import format_error, parse_error, stage_main
from tasks.records import ChampionRecord

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


DEATH_SECONDS = 20  # on a busy machine; it takes milliseconds


def wait_for_end(pipe: IO[bytes]) -> None:
    """Until every process that can write to the pipe is gone."""
    readable, _, _ = select.select([pipe], [], [], DEATH_SECONDS)
    assert readable, f"still alive after {DEATH_SECONDS} s"
    assert pipe.read1() == b""  # type: ignore[attr-defined]


# A stage that says "ready" on standard output and then waits for an end of input that the tests never give it, so that only
# `die_with_parent` can end it. Standard error stays open as long as it lives: reading it to the end waits for the death.
STAGE = "from tasks.process import die_with_parent; import sys; die_with_parent(); print('ready', flush=True); sys.stdin.read()"


def test_a_stage_whose_parent_is_killed_dies_too() -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's parent-death signal is Linux's; elsewhere the reader's death is what ends a stage")
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STAGE!r}])"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        wait_for_end(parent.stderr)  # the stage holds the same pipe


def test_a_stage_whose_reader_is_gone_dies_though_its_parent_lives() -> None:
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with stage:
        assert stage.stdout is not None
        assert stage.stderr is not None
        assert stage.stdout.readline() == b"ready\n"
        stage.stdout.close()
        wait_for_end(stage.stderr)
        assert stage.wait() == -signal.SIGKILL


def test_a_stage_whose_output_goes_to_a_file_lives_on(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", STAGE.replace("print", "sys.stdin.readline(); print")],
            cwd=ROOT,
            input=b"go\n",
            stdout=log,
            check=False,
        )
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == f"ready{os.linesep}"
