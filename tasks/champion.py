"""Copy the published model that the candidate would replace to data/champion, so that it is scored beside the candidate.

python -m tasks.champion
"""

import shutil
import sys

from tasks.errors import RegistryError
from tasks.files import write_json
from tasks.model_folder import base_of, is_adapter
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import BaseModelRecord, ChampionRecord, TrainedModel
from tasks.registry import Registry, open_registry


def champion(registry: Registry, workspace: Workspace) -> ChampionRecord:
    """Fill data/champion and write the record; without a champion there is only champion.json, with nulls.

    Raises:
        RegistryError: the version is missing or damaged, or an adapter of another base model.
    """
    record = _resolve(registry, workspace)
    shutil.rmtree(workspace.champion, ignore_errors=True)
    if record.version is not None:
        registry.fetch(record.version, workspace.model("champion"))
        _check_base(workspace, record.version)
    write_json(workspace.champion / "champion.json", {"version": record.version, "digest": record.digest})
    return record.write(workspace.record("champion"))


def _check_base(workspace: Workspace, version: str) -> None:
    """An adapter says nothing without its own base model."""
    folder, base = workspace.model("champion"), BaseModelRecord.read(workspace.record("base")).source
    if is_adapter(folder) and base_of(folder) != base:
        raise RegistryError(
            f"champion {version} is an adapter of {base_of(folder)}, and the base model is {base}; go "
            "back to that base for one run with train.merge: true, or start a new push.name"
        )


def current(workspace: Workspace, params: Params) -> ChampionRecord:
    """What the stage's record would be now: reads three small files and copies nothing."""
    return _resolve(open_registry(params.push, workspace), workspace)


def _resolve(registry: Registry, workspace: Workspace) -> ChampionRecord:
    """Where the candidate is the champion already, it is the version that this replaced: a second run then changes nothing."""
    pointer = registry.champion()
    if pointer is None:
        return ChampionRecord(registry=registry.name, version=None, digest=None)
    train = workspace.record("train")
    if not train.exists() or TrainedModel.read(train).digest != pointer.digest:
        return ChampionRecord(registry=registry.name, version=pointer.version, digest=pointer.digest)
    replaced = pointer.previous if pointer.previous in registry.versions() else None
    return ChampionRecord(registry=registry.name, version=replaced, digest=registry.digest(replaced) if replaced else None)


def _run(workspace: Workspace, params: Params) -> ChampionRecord:
    return champion(open_registry(params.push, workspace), workspace)


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
