"""Lay out a published version as it was made: code, parameters, DVC's lock and data, in a folder of its own."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.dvc_repo import dvc_repo
from tasks.environment import describe
from tasks.errors import InputError, RegistryError, one_line
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.records import Environment
from tasks.registry import LOCK, PARAMS, Registry
from tasks.versions import training_of

if TYPE_CHECKING:
    from dvc.repo import Repo

_PURPOSE = "lay out the data"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """`changed`: inputs (data, code) that are not those of the version, with what DVC says of each; `unfetched`: why DVC's remote
    did not give what the cache lacks; `differences`: of the machine and the packages, as (then, now).
    """

    version: str
    folder: Path
    commit: str
    changed: dict[str, str]
    unfetched: str | None
    differences: dict[str, tuple[str | None, str | None]]

    def lines(self) -> list[str]:
        found = [
            f"{self.folder}: code of commit {self.commit[:12]}, params.yaml and dvc.lock of {self.version}, data that DVC has"
        ]
        if self.unfetched:
            found.append(f"the DVC remote did not give what the cache lacks ({self.unfetched}); mend that, then `dvc pull` there")
        found += [f"{path}: {how}, so it is not what {self.version} was made of" for path, how in self.changed.items()]
        found += [f"{name}: was {then or 'absent'}, is {now or 'absent'}" for name, (then, now) in self.differences.items()]
        if not (self.changed or self.unfetched or self.differences):
            found.append("nothing differs: inputs, packages and machine are those of the version")
        return [*found, f"`dvc repro` in that folder makes it again; `git worktree remove --force {self.folder}` ends it"]


def reproduce(registry: Registry, version: str, folder: Path, workspace: Workspace) -> Reproduction:
    """Fill a new folder with a git worktree of the code, the version's params.yaml and dvc.lock, and the data, which DVC has.

    Raises:
        RegistryError: there is no such version, or it does not say how it was made.
        InputError: the folder exists, or git does not have the code.
    """
    training = training_of(registry, version)
    documents = {name: registry.document(version, name) for name in (PARAMS, LOCK)}
    if training is None or None in documents.values():
        raise RegistryError(f"{registry.name}: {version} has no training.json, params.yaml or dvc.lock, so it does not say how")
    commit = training.environment.git_commit
    if commit is None:
        raise InputError(f"{version}: was made outside git, so its code cannot be had; `refit show {version}` tells the rest")
    if folder.exists():
        raise InputError(f"{folder}: exists; name a new folder with --into")
    inside = _worktree(workspace, folder, commit)
    for name, data in documents.items():
        (inside.root / name).write_bytes(data or b"")
    _share_cache_and_remotes(inside, workspace)
    unfetched, changed = _check_out(inside)
    return Reproduction(
        version=version,
        folder=inside.root,
        commit=commit,
        changed=changed,
        unfetched=unfetched,
        differences=_differences(training.environment, describe(inside.root)),
    )


def _worktree(workspace: Workspace, folder: Path, commit: str) -> Workspace:
    command = ["git", "worktree", "add", "--quiet", "--detach", str(folder.absolute()), commit]
    done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["git said nothing"])[-1]
        raise InputError(f"{workspace.root}: git does not lay out commit {commit[:12]} ({said}); fetch it from where the code is")
    inner = subprocess.run(["git", "rev-parse", "--show-prefix"], cwd=workspace.root, capture_output=True, text=True, check=True)
    return Workspace(folder.absolute() / inner.stdout.strip())


def _share_cache_and_remotes(inside: Workspace, workspace: Workspace) -> None:
    """In settings of its own, since a relative path of the workspace leads elsewhere from another folder."""
    with dvc_repo(workspace, _PURPOSE) as repo:
        cache, remotes, default = repo.cache.local_cache_dir, repo.config["remote"], repo.config["core"].get("remote")
    with dvc_repo(inside, _PURPOSE) as repo, repo.config.edit("local") as local:
        local.setdefault("cache", {})["dir"] = cache
        local.setdefault("remote", {}).update(remotes)
        if default:
            local.setdefault("core", {})["remote"] = default


def _check_out(inside: Workspace) -> tuple[str | None, dict[str, str]]:
    """Have DVC lay out what its cache has, and what else its remote has; returns why that did not give it, and the inputs that
    are not those of dvc.lock.
    """
    from dvc.exceptions import DvcException

    unfetched = None
    with dvc_repo(inside, _PURPOSE) as repo:
        repo.checkout(force=True, allow_missing=True)
        if (missing := _missing(repo)) and repo.config["remote"]:
            try:
                repo.fetch(missing, remote=_remote(inside, repo))
            except DvcException as error:
                unfetched = one_line(error)
            repo.checkout(force=True, allow_missing=True)
            if left := _missing(repo):  # of a remote that is not there DVC only warns
                unfetched = unfetched or f"it lacks {', '.join(inside.relative(Path(path)) for path in left)}"
        made = [Path(out.fspath) for stage in repo.index.stages if stage.cmd for out in stage.outs]
        status = repo.status()
    changed = [(inside.root / path, how) for path, how in _changed_inputs(status)]
    return unfetched, {inside.relative(path): how for path, how in changed if not any(path.is_relative_to(out) for out in made)}


def _missing(repo: "Repo") -> list[str]:
    return [out.fspath for stage in repo.index.stages for out in stage.outs if out.use_cache and not out.exists]


def _remote(inside: Workspace, repo: "Repo") -> str | None:
    """Where the version was written down, or DVC's default."""
    named = load_params(inside.params).record.dvc_remote
    return named if named in repo.config["remote"] else None


def _changed_inputs(status: dict[str, Any]) -> list[tuple[str, str]]:
    changes = [
        item["changed deps"] for items in status.values() for item in items if isinstance(item, dict) and "changed deps" in item
    ]
    return sorted({(path, how) for change in changes for path, how in change.items() if isinstance(how, str)})


def _differences(then: Environment, now: Environment) -> dict[str, tuple[str | None, str | None]]:
    pairs: dict[str, tuple[str | None, str | None]] = {
        name: (str(getattr(then, name)), str(getattr(now, name))) for name in ("python", "platform", "device", "threads")
    }
    pairs |= {name: (then.packages.get(name), now.packages.get(name)) for name in {**then.packages, **now.packages}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
