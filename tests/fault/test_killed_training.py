"""SIGKILL to the training child, and to the run itself: the first is retried, the second leaves nothing behind."""

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

from tasks.paths import Workspace
from tests.conftest import MakeWorkspace


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


def training_process(workspace: Workspace) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"tasks.train" in words and b"-m" in words and (folder / "cwd").resolve() == workspace.root.resolve():
                return int(folder.name)
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    raise AssertionError("no training process")


def test_a_killed_training_is_retried_from_its_checkpoint(make_workspace: MakeWorkspace, prefect_home: Path) -> None:
    workspace = make_workspace(**{"train.max_steps": 60, "train.eval_steps": 3})
    run = start_run(workspace)
    read_until(run, r"step 7/60 loss")
    os.kill(training_process(workspace), signal.SIGKILL)
    killed = read_until(run, "was killed")
    assert "StageKilled" in killed
    resumed = read_until(run, "resumed from checkpoint-")
    assert re.search(r"checkpoint-\d+", resumed)
    rest, _ = run.communicate()
    assert run.returncode == 0, rest
    assert "Published" in rest
    assert (workspace.data / "registry" / "versions" / "v1" / "model.safetensors").is_file()
    assert not list(workspace.checkpoints.glob("*"))


def test_no_child_outlives_a_killed_run(make_workspace: MakeWorkspace, prefect_home: Path) -> None:
    workspace = make_workspace(**{"train.max_steps": 5000, "train.eval_steps": 5000})
    run = start_run(workspace)
    read_until(run, r"step 2/5000 loss")
    child = os.pidfd_open(training_process(workspace))
    run.kill()
    run.wait()
    ended, _, _ = select.select([child], [], [], 60)
    os.close(child)
    assert ended, "the training went on a minute after its run had died"
    assert not workspace.record("train").exists()
