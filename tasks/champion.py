"""Copy the published model that the candidate would replace to data/champion, so that it is scored beside the candidate.

The best one ever published goes to data/best, where that is another.

python -m tasks.champion
"""

import json
import shutil
import sys

from tasks.errors import RegistryError
from tasks.evaluation_records import ChampionRecord
from tasks.files import write_json
from tasks.model_folder import base_of, is_adapter
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import BaseModelRecord, TrainedModel
from tasks.registry import DECISION, Pointer, Registry, open_registry


def champion(registry: Registry, workspace: Workspace) -> ChampionRecord:
    """Fill data/champion and data/best, and write the record; where there is no such version the folder has only a JSON file
    with nulls.

    Raises:
        RegistryError: the version is missing or damaged, or an adapter of another base model.
    """
    record = _resolve(registry, workspace)
    found = {"champion": (record.version, record.digest), "best": (record.best_version, record.best_digest)}
    for role, (version, digest) in found.items():
        folder = workspace.model(role)
        shutil.rmtree(folder.parent, ignore_errors=True)
        if version is not None:
            registry.fetch(version, folder)
            _check_base(workspace, role, version)
        write_json(folder.parent / f"{role}.json", {"version": version, "digest": digest})
    return record.write(workspace.record("champion"))


def _check_base(workspace: Workspace, role: str, version: str) -> None:
    """An adapter says nothing without its own base model."""
    folder, base = workspace.model(role), BaseModelRecord.read(workspace.record("base")).source
    if is_adapter(folder) and base_of(folder) != base:
        raise RegistryError(
            f"{role} {version} is an adapter of {base_of(folder)}, and the base model is {base}; go "
            "back to that base for one run with train.merge: true, or publish elsewhere, by another push.path or push.repo_id"
        )


def current(workspace: Workspace, params: Params) -> ChampionRecord:
    """What the stage's record would be now: reads a few small files and copies nothing."""
    return _resolve(open_registry(params.push, workspace), workspace)


def _resolve(registry: Registry, workspace: Workspace) -> ChampionRecord:
    """Where the candidate is the champion already, it is the version that this replaced: a second run then changes nothing."""
    pointer = registry.champion()
    version = pointer.version if pointer else None
    train = workspace.record("train")
    if pointer and train.exists() and TrainedModel.read(train).digest == pointer.digest:
        version = pointer.previous if pointer.previous in registry.versions() else None
    best = _best(registry, version) if version else None
    return ChampionRecord(
        registry=registry.name,
        version=version,
        digest=_digest(registry, version, pointer),
        best_version=best,
        best_digest=_digest(registry, best, pointer),
    )


def _digest(registry: Registry, version: str | None, pointer: Pointer | None) -> str | None:
    """The champion's stands in the pointer already."""
    if version is None:
        return None
    return pointer.digest if pointer and version == pointer.version else registry.digest(version)


def _best(registry: Registry, version: str) -> str | None:
    """What `version` was compared with as the best one when it was judged, None if it is the best itself.

    So no stored score is compared with one of other items: each version's decision tells how it did against the best before it,
    on the same items. A version that was withdrawn is no measure; a decision of before there was such a rule tells of none.
    """
    decision = json.loads(registry.document(version, DECISION) or b"{}")
    best = decision.get("best_version")
    if decision.get("is_best", True) or best == version or best not in registry.versions():
        return None
    return None if registry.withdrawn(registry.digest(best)) else str(best)


def _run(workspace: Workspace, params: Params) -> ChampionRecord:
    return champion(open_registry(params.push, workspace), workspace)


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
