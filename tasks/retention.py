"""What is removed after a run, by the section `retention`: versions of a local registry, what nothing names in DVC's cache."""

import json
from pathlib import Path

from tasks.dvc_repo import dvc_repo
from tasks.local_registry import LocalRegistry
from tasks.params import Params
from tasks.paths import Workspace
from tasks.registry import DECISION, open_registry


def clean(workspace: Workspace, params: Params) -> list[str]:
    """Remove what the section gives up; returns what was removed, in words.

    Raises:
        RegistryError: a version is damaged, so that it cannot be told what may go.
        InputError: DVC cannot tell what is used.
        TransientError: another process holds DVC's lock.
    """
    section, registry = params.retention, open_registry(params.push, workspace)
    said = []
    if section.versions is not None and isinstance(registry, LocalRegistry):
        for version in superfluous(registry, section.versions):
            registry.remove(version)
            said.append(f"{registry.name}: {version} was removed (retention.versions: {section.versions})")
    if section.dvc_cache == "used":
        freed = _clean_cache(workspace)
        said += [f".dvc/cache: {freed / 1e6:.1f} MB that nothing names were removed (retention.dvc_cache: used)"] if freed else []
    return said


def superfluous(registry: LocalRegistry, keep: int) -> list[str]:
    """All but the newest versions, the champion, the one that it replaced, and the best ones that these are measured by."""
    champion, versions = registry.champion(), registry.versions()
    if champion is None:
        return []
    needed = [version for version in versions if version in (champion.version, champion.previous)]
    needed += [json.loads(registry.document(version, DECISION) or b"{}").get("best_version") for version in needed]
    return [version for version in versions[: max(0, len(versions) - keep)] if version not in needed]


def _clean_cache(workspace: Workspace) -> int:
    """`dvc gc --workspace`, in git also `--all-commits`; returns the bytes that went."""
    from dvc.scm import NoSCM

    cache = workspace.root / ".dvc" / "cache"
    before = _size(cache)
    with dvc_repo(workspace, "tell what of its cache is used") as repo:
        repo.gc(workspace=True, all_commits=not isinstance(repo.scm, NoSCM), force=True)
    return before - _size(cache)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
