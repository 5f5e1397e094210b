"""Write a published version down where the team looks: commit and tag in git, a DVC remote, a dataset repository of the Hub.

python -m tasks.record
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import InputError, NetworkError, StageInputError
from tasks.files import sha256_file
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.publishing_sections import Recording
from tasks.records import PushReceipt, VersionRecord

_NOBODY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "refit"), ("EMAIL", "refit@localhost"))
}


def record(section: Recording, name: str, private: bool, workspace: Workspace) -> VersionRecord:
    """Write down the version of the last push. Safe to repeat: what is there already stays as it is.

    The commit holds dvc.lock, params.yaml, the records and the .dvc files, over the tree of HEAD; neither the index nor the
    working tree is touched. It follows what the branch has, here and at the remote, where other workspaces may write too.

    Raises:
        StageInputError: nothing was pushed yet, or only proposed.
        InputError: the workspace is not in git, or the tag belongs to something else.
        NetworkError: a remote could not be reached.
    """
    receipt = PushReceipt.read(workspace.record("push"))
    if receipt.version is None:
        raise StageInputError(f"{workspace.record('push')}: {receipt.summary()}, so there is no version to write down yet")
    tag, commit = f"{name}-{receipt.version}", None
    if section.git_branch is not None:
        commit = _commit(workspace, section.git_branch, section.git_remote, tag, receipt)
        if section.git_remote is not None:
            _send(
                workspace,
                ["git", "push", "--quiet", "--atomic", section.git_remote, section.git_branch, f"refs/tags/{tag}"],
                f"git remote {section.git_remote}",
            )
    if section.dvc_remote is not None:
        command = [sys.executable, "-m", "dvc", "push", "--quiet", "--remote", section.dvc_remote]
        _send(workspace, command, f"DVC remote {section.dvc_remote}")
    if section.dataset_repo_id is not None:
        _publish_dataset(workspace, section.dataset_repo_id, tag, private)
    return VersionRecord(
        version=receipt.version,
        digest=receipt.digest,
        git_branch=section.git_branch,
        git_tag=tag if commit else None,
        git_commit=commit,
        git_remote=section.git_remote,
        dvc_remote=section.dvc_remote,
        dataset_repo_id=section.dataset_repo_id,
    ).write(workspace.record("record"))


def _publish_dataset(workspace: Workspace, repo_id: str, tag: str, private: bool) -> None:
    """The prepared splits and their card, in one state per version, which gets the tag once every byte is there; a tag that is
    there already is not moved.
    """
    from tasks.hub_repository import open_repository
    from tasks.hub_staging import arrived

    repository = open_repository(repo_id, "dataset")
    api, folder = repository.api, workspace.prepared
    paths = [folder / "README.md", *sorted(folder.glob("*.parquet"))]
    dataset: dict[str, Any] = {"repo_id": repo_id, "repo_type": repository.repo_type}
    with repository.asking("publish the dataset"):
        api.create_repo(**dataset, private=private, exist_ok=True)
        if tag not in {found.name for found in api.list_repo_refs(**dataset).tags}:
            done = api.upload_folder(
                **dataset, folder_path=folder, allow_patterns=[path.name for path in paths], commit_message=tag
            )
            found = arrived(repository, done.oid, paths)
            if bad := [path.name for path in paths if found[path.name] != sha256_file(path)]:
                raise NetworkError(f"{repository.name}: {', '.join(bad)} arrived otherwise than sent; this is tried again")
            api.create_tag(**dataset, tag=tag, revision=done.oid)


def _commit(workspace: Workspace, branch: str, remote: str | None, tag: str, receipt: PushReceipt) -> str:
    message = f"{tag}\n\n{receipt.summary()}\n\nModel: {receipt.digest}"
    found = _git(workspace, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}", check=False)
    if found:
        if receipt.digest not in _git(workspace, "log", "-1", "--format=%B", found):
            raise InputError(
                f"git tag {tag}: exists, and is not of the model {receipt.digest[:12]}; delete it (`git tag -d {tag}`), or "
                "choose another push.name"
            )
        return found
    head = _git(workspace, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
    if not head:
        raise InputError(f"{workspace.root}: record.git_branch needs a git repository with a commit; make one, or set it to null")
    tip = _git(workspace, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", check=False)
    theirs = _fetched(workspace, remote, branch) if remote else ""
    if branch == _git(workspace, "rev-parse", "--abbrev-ref", "HEAD"):
        raise InputError(
            f"record.git_branch {branch}: is checked out here, and a commit would change it under your hands; name another, such "
            f"as {tag.rpartition('-')[0]}-models"
        )
    parents = [head]
    for other in (tip, theirs):  # of another workspace, too: the branch only ever grows
        if other and not any(_is_ancestor(workspace, other, parent) for parent in parents):
            parents.insert(0, other)
    links = [word for parent in parents for word in ("-p", parent)]
    identity = {} if _git(workspace, "config", "user.email", check=False) else _NOBODY
    commit = _git(workspace, "commit-tree", _tree(workspace), *links, "-m", message, environment=identity)
    _git(workspace, "update-ref", f"refs/heads/{branch}", commit, tip or "0" * 40)
    _git(workspace, "tag", "--annotate", "--message", message, tag, commit, environment=identity)
    return commit


def _fetched(workspace: Workspace, remote: str, branch: str) -> str:
    """The commit of the branch at the remote, "" if it is not there yet."""
    where = f"git remote {remote}"
    if not _send(workspace, ["git", "ls-remote", "--heads", remote, f"refs/heads/{branch}"], where):
        return ""
    _send(workspace, ["git", "fetch", "--quiet", "--no-tags", remote, f"refs/heads/{branch}"], where)
    return _git(workspace, "rev-parse", "FETCH_HEAD")


def _tree(workspace: Workspace) -> str:
    """HEAD's tree with the files that tell how the version was made, put together in an index of its own."""
    files = [workspace.lock, workspace.params, *workspace.data.glob("reports/*.json"), *workspace.data.glob("*.dvc")]
    with tempfile.TemporaryDirectory(prefix="refit-") as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        _git(workspace, "read-tree", "HEAD", environment=index)
        # By force: a workspace may well have told git to ignore its records.
        names = [workspace.relative(file) for file in files if file.is_file()]
        _git(workspace, "add", "--force", "--", *names, environment=index)
        return _git(workspace, "write-tree", environment=index)


def _is_ancestor(workspace: Workspace, older: str, newer: str) -> bool:
    return _git(workspace, "merge-base", older, newer, check=False) == older


def _git(workspace: Workspace, *words: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
    command = ["git", *words]
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=workspace.root, env=env, capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise InputError(f"{workspace.root}: `git {words[0]}` failed: {_telling(done.stderr)}")
    return done.stdout.strip()


def _send(workspace: Workspace, command: Sequence[str], where: str) -> str:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(
            f"{where}: did not take it: {_telling(done.stderr)}; the version is published, and this is tried again"
        )
    return done.stdout.strip()


def _telling(text: str) -> str:
    """The line that says what went wrong: git's own first one, without its hints, or else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("hint:")]
    return next((line for line in lines if line.startswith(("!", "fatal:", "error:"))), lines[-1] if lines else "it said nothing")


def _run(workspace: Workspace, params: Params) -> VersionRecord:
    return record(params.record, params.push.name, params.push.private, workspace)


def main() -> int:
    """Entry point of `python -m tasks.record`."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
