"""SIGKILL to the run itself, which leaves nothing behind, and to the training child, which is retried."""

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

from tasks.paths import Workspace
from tests.conftest import MakeWorkspace
from tests.serving import processes


def start_run(workspace: Workspace) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "flows.cli", "run"]
    return subprocess.Popen(command, cwd=workspace.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(run: "subprocess.Popen[str]", pattern: str) -> str:
    """The first line of the run's output that matches; fails with all of it if the run ends before."""
    assert run.stdout is not None
    seen = []
    for line in run.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError(f"{pattern!r} never came:\n{''.join(seen)}")


def resumed_at(run: "subprocess.Popen[str]") -> int:
    """The step of the checkpoint from which the training says that it goes on."""
    found = re.search(r"resumed from checkpoint-(\d+)", read_until(run, "resumed from checkpoint-"))
    assert found
    return int(found[1])


def training_process(workspace: Workspace) -> int:
    (found,) = processes(workspace, b"-m", b"tasks.train")
    return found


def test_no_child_outlives_a_killed_run_and_a_killed_child_is_retried(make_workspace: MakeWorkspace, prefect_home: Path) -> None:
    workspace = make_workspace(**{"train.max_steps": 60, "train.eval_steps": 3})
    first = start_run(workspace)
    read_until(first, r"step 5/60 loss")
    (dvc,) = processes(workspace, b"-m", b"dvc", b"repro")
    (server,) = processes(workspace, b"-m", b"flows.server_process")
    children = [os.pidfd_open(number) for number in (training_process(workspace), dvc, server)]
    first.kill()
    first.wait()
    for child in children:
        ended, _, _ = select.select([child], [], [], 60)
        os.close(child)
        assert ended, "a child went on a minute after its run had died"
    assert not workspace.record("train").exists()

    second = start_run(workspace)
    start = resumed_at(second)
    read_until(second, rf"step {start + 4}/60 loss")
    os.kill(training_process(workspace), signal.SIGKILL)
    assert "StageKilled" in read_until(second, "was killed")
    assert resumed_at(second) > start
    rest, _ = second.communicate()
    assert second.returncode == 0, rest
    assert "Published" in rest
    assert (workspace.data / "registry" / "versions" / "v1" / "model.safetensors").is_file()
    assert not list(workspace.checkpoints.glob("*"))
