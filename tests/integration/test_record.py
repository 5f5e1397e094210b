"""A version in git, where another workspace writes to the same branch of the same remote."""

import shutil
from pathlib import Path

import pytest

from tasks.errors import NetworkError
from tasks.publishing_sections import Recording
from tasks.record import record
from tasks.records import PushReceipt
from tests.conftest import git
from tests.unit.publishing import make_workspace

SECTION = Recording(git_branch="models", git_remote="origin", dvc_remote=None, dataset_repo_id=None)


@pytest.fixture
def clones(tmp_path: Path) -> list[Path]:
    """Two workspaces of one repository, both with a version of their own to write down."""
    workspace, _ = make_workspace(tmp_path / "first")
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(workspace.root, "init", "--quiet", "--initial-branch=main")
    git(workspace.root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(workspace.root, "add", "--all")
    git(workspace.root, "commit", "--quiet", "--message", "all of it")
    return [workspace.root, Path(shutil.copytree(workspace.root, tmp_path / "second"))]


def write_down(folder: Path, name: str) -> str:
    workspace, _ = make_workspace(folder)
    receipt = {"registry": "local:r", "version": "v1", "digest": f"{name:0<64}", "published": True}
    known = {key: receipt.get(key) for key in PushReceipt.model_fields}
    PushReceipt.model_validate(known).write(workspace.record("push"))
    return str(record(SECTION, name, True, workspace).git_commit)


def test_what_another_workspace_wrote_there_stays(clones: list[Path], tmp_path: Path) -> None:
    one, other = (write_down(folder, name) for folder, name in zip(clones, ("a", "b"), strict=True))
    again = write_down(clones[0], "c")
    remote = tmp_path / "origin.git"
    assert git(remote, "rev-parse", "models") == again
    for earlier, later in ((one, other), (other, again)):
        git(remote, "merge-base", "--is-ancestor", earlier, later)
    assert git(remote, "tag").split() == ["a-v1", "b-v1", "c-v1"]


def test_a_remote_that_refuses_is_quoted(clones: list[Path], tmp_path: Path) -> None:
    hook = tmp_path / "origin.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(
        NetworkError, match=r"git remote origin: did not take it: ! \[remote rejected\] .*pre-receive hook declined"
    ):
        write_down(clones[0], "a")
