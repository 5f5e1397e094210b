"""A stage's process: what its end means, that its lines come at once, and that nothing of it outlives the call."""

import os
import select
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import repro
from tasks.errors import DataError, NetworkError, NotApprovedError, PipelineError, StageKilled, StageTimeoutError, TransientError
from tasks.paths import Workspace
from tasks.process import format_error
from tasks.repro import run_child

DVC_FAILED = "ERROR: failed to reproduce 'train': failed to run: python -m tasks.train, exited with {}"
DEATH_SECONDS = 20  # on a busy machine; it takes milliseconds


def failure(returncode: int, *lines: str) -> PipelineError:
    found = repro._failure("train", returncode, list(lines))
    if type(found) in (PipelineError, StageKilled, TransientError):
        assert str(found).startswith("train: ")
    return found


@pytest.mark.parametrize("kind", [DataError, NotApprovedError, NetworkError])
def test_the_stages_own_error_comes_back_as_its_own_type(kind: type[PipelineError]) -> None:
    own = kind("a.jsonl:3: found x\nwanted y")
    found = failure(1, "noise", *format_error(own).split("\n"), DVC_FAILED.format(own.exit_code))
    assert type(found) is kind
    assert str(found) == str(own)


@pytest.mark.parametrize(
    ("returncode", "lines"),
    [
        (-9, []),
        (-15, ["step 3/48 loss 1.2"]),
        (1, [DVC_FAILED.format(-9)]),
        (1, [DVC_FAILED.format(137)]),
        (1, ["Killed", DVC_FAILED.format(143)]),
        (137, ["Killed"]),
        (255, [DVC_FAILED.format(-11)]),
    ],
)
def test_an_end_by_a_signal_is_worth_a_retry(returncode: int, lines: list[str]) -> None:
    found = failure(returncode, *lines)
    assert type(found) is StageKilled
    assert "killed" in str(found)


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: '/srv/refit/data/model' is busy, it is being blocked by:",
        "ERROR: Unable to acquire lock. Most likely another DVC process is running or was terminated abruptly.",
    ],
)
def test_a_lock_of_somebody_else_is_worth_a_retry(line: str) -> None:
    found = failure(255, line, "  (PID 7): dvc repro")
    assert type(found) is TransientError
    assert "another process holds DVC's lock" in str(found)


@pytest.mark.parametrize(("status", "returncode"), [(1, 1), (2, 255), (128, 1), (255, 255), (200, 1)])
def test_a_bug_is_not_worth_a_retry_and_its_last_line_is_told(status: int, returncode: int) -> None:
    found = failure(returncode, "Traceback (most recent call last):", "KeyError: 'loss'", "", DVC_FAILED.format(status))
    assert type(found) is PipelineError
    assert f"exit code {status} (KeyError: 'loss')" in str(found)


def test_a_failure_without_a_word_is_told_as_such() -> None:
    assert "exit code 3 (no output)" in str(failure(3))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[int]:
    """The reading end of `pipe`, which children open for writing: it ends when the last of them is dead."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def assert_all_dead(pipe: int) -> None:
    readable, _, _ = select.select([pipe], [], [], DEATH_SECONDS)
    assert readable, f"still alive after {DEATH_SECONDS} s"
    assert os.read(pipe, 10) == b"", "a writer is left"


def shell(workspace: Workspace, script: str) -> list[str]:
    """What a child that runs this script printed."""
    lines: list[str] = []
    run_child(workspace, "train", ["/bin/sh", "-c", script], lines.append, DEATH_SECONDS)
    return lines


def test_a_child_runs_in_the_workspace_and_finds_our_python(workspace: Workspace) -> None:
    found, folder, rest = shell(workspace, "command -v python; pwd; cat; echo out >&2")
    assert Path(found).parent == Path(sys.executable).parent
    assert Path(folder).resolve() == workspace.root.resolve()
    assert rest == "out"


def test_bytes_that_are_no_text_do_not_stop_the_log(workspace: Workspace) -> None:
    assert shell(workspace, r"printf 'a\377b\nc'") == ["a\ufffdb", "c"]


def test_a_line_is_logged_while_the_child_goes_on(workspace: Workspace, pipe: int) -> None:
    """The child waits for an answer that only the log's first line brings about."""
    program = """if True:
        import os, select
        print("first")
        answer = os.open("answer", os.O_RDWR)
        print("answered" if select.select([answer], [], [], 20)[0] else "silence")
    """
    os.mkfifo(workspace.root / "answer")
    answer = os.open(workspace.root / "answer", os.O_RDWR)
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line == "first":
            os.write(answer, b"!")

    try:
        run_child(workspace, "train", [sys.executable, "-S", "-c", program], log, DEATH_SECONDS)
    finally:
        os.close(answer)
    assert lines == ["first", "answered"]


def test_the_stages_own_error_is_raised(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="found x"):
        shell(workspace, "echo 'refit: DataError: found x'; exit 2")


SURVIVORS = {
    "that holds the output": "tail -f /dev/null &",
    "that holds nothing": "tail -f /dev/null >&3 2>&3 &",
    "that ignores SIGTERM": "(trap '' TERM HUP INT; tail -f /dev/null; true) &",
}


@pytest.mark.parametrize("survivor", SURVIVORS)
def test_a_leader_that_dies_leaves_no_survivor_in_its_group(workspace: Workspace, pipe: int, survivor: str) -> None:
    with pytest.raises(StageKilled):
        shell(workspace, f"exec 3>pipe; {SURVIVORS[survivor]} kill -9 $$")
    assert_all_dead(pipe)


@pytest.mark.parametrize("survivor", SURVIVORS)
def test_a_leader_that_ends_well_leaves_no_survivor_either(workspace: Workspace, pipe: int, survivor: str) -> None:
    assert shell(workspace, f"exec 3>pipe; {SURVIVORS[survivor]} echo done") == ["done"]
    assert_all_dead(pipe)


@pytest.fixture(params=["env --default-signal=TERM", ""], ids=["dies of SIGTERM", "ignores SIGTERM"])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a stage's command begins with: its leader ignores SIGTERM, as DVC does, and it takes it as it comes, or holds out."""
    found: str = request.param
    monkeypatch.setattr(repro, "_GRACE_SECONDS", DEATH_SECONDS if found else 0.05)
    return found


def test_the_group_is_killed_when_the_log_fails(workspace: Workspace, pipe: int, stage: str) -> None:
    def log(line: str) -> None:
        raise RuntimeError(f"no server for {line!r}")

    with pytest.raises(RuntimeError, match="no server for 'ready'"):
        run_child(
            workspace,
            "train",
            ["/bin/sh", "-c", f"exec 3>pipe; {stage} sh -c 'tail -f /dev/null & echo ready; tail -f /dev/null'; :"],
            log,
            DEATH_SECONDS,
        )
    assert_all_dead(pipe)


def test_what_takes_too_long_is_ended_with_its_whole_group(workspace: Workspace, pipe: int, stage: str) -> None:
    script = f"exec 3>pipe; {stage} sh -c 'tail -f /dev/null & tail -f /dev/null'; :"
    with pytest.raises(StageTimeoutError, match=r"^evaluate@base: took longer than 3e-05 hours .* raise timeouts.evaluate "):
        run_child(workspace, "evaluate@base", ["/bin/sh", "-c", script], print, 0.108)
    assert_all_dead(pipe)


def test_a_stage_that_is_ended_may_save_first(workspace: Workspace, pipe: int) -> None:
    stage = "env --default-signal=TERM sh -c 'trap \"touch saved; exit 143\" TERM; echo ready; while :; do sleep 0.01; done'"

    def log(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="ready"):
        run_child(workspace, "train", ["/bin/sh", "-c", f"exec 3>pipe; {stage}; :"], log, DEATH_SECONDS)
    assert (workspace.root / "saved").exists()
    assert_all_dead(pipe)


def test_no_descriptor_is_left_open(workspace: Workspace) -> None:
    """However many stages a flow runs, and not only because Python closes what is forgotten."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("no list of open descriptors on this system")
    before = len(list(folder.iterdir()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            shell(workspace, "echo done")
    assert len(list(folder.iterdir())) == before
    assert not told
