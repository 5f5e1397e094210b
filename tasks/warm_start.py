"""The model that a training starts from: the base model, or the published one."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import InputError
from tasks.files import sha256_file, tree_digest
from tasks.model_folder import is_adapter
from tasks.params import Params
from tasks.paths import Workspace
from tasks.registry import open_registry

_SAME = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")


@dataclass(frozen=True, slots=True)
class Start:
    """A model folder with its digest, and the published version that it is, None for the base model."""

    folder: Path
    digest: str
    version: str | None


def starting_model(params: Params, workspace: Workspace) -> Start:
    """The champion, copied out of the registry, where `train.start_from` says so and there is one; else the base model.

    Raises:
        InputError: the champion was trained from another kind of base model, or is an adapter.
        RegistryError, NetworkError: the champion cannot be had.
    """
    base = Start(workspace.base, tree_digest(workspace.base), None)
    if params.train.start_from == "base":
        return base
    registry = open_registry(params.push, workspace)
    champion = registry.champion()
    if champion is None:
        print("train.start_from: no version is published yet, so the training starts from the base model", flush=True)
        return base
    folder = workspace.champion_start
    shutil.rmtree(folder, ignore_errors=True)
    registry.fetch(champion.version, folder)
    if is_adapter(folder):
        raise InputError(
            f"train.start_from: champion {champion.version} is an adapter, from which no training can "
            "go on; set start_from to base"
        )
    _check_alike(workspace.base, folder, champion.version)
    return Start(folder, champion.digest, champion.version)


def _check_alike(base: Path, champion: Path, version: str) -> None:
    one, other = (json.loads((folder / "config.json").read_bytes()) for folder in (base, champion))
    different = [name for name in _SAME if one.get(name) != other.get(name)]
    if sha256_file(base / "tokenizer.json") != sha256_file(champion / "tokenizer.json"):
        different.append("tokenizer.json")
    if different:
        raise InputError(
            f"train.start_from: champion {version} differs from the base model in {', '.join(different)}, so it was trained from "
            "another one; set train.start_from to base for this run"
        )
