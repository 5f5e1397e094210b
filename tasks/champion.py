"""Copy the published model that the candidate would replace to data/champion, so that it is scored beside the candidate.

python -m tasks.champion
"""

import shutil
import sys

from tasks.files import write_json
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import ChampionRecord, TrainedModel
from tasks.registry import Registry, open_registry


def champion(registry: Registry, workspace: Workspace) -> ChampionRecord:
    """Fill data/champion and write the record; without a champion there is only champion.json, with nulls.

    Raises:
        RegistryError: the version is missing or damaged.
    """
    record = _resolve(registry, workspace)
    shutil.rmtree(workspace.champion, ignore_errors=True)
    if record.version is not None:
        registry.fetch(record.version, workspace.model("champion"))
    write_json(workspace.champion / "champion.json", {"version": record.version, "digest": record.digest})
    return record.write(workspace.record("champion"))


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
