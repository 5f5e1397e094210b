"""A model in a folder: all of its weights, in one file or in shards, or an adapter on the base model."""

import json
import re
from pathlib import Path
from typing import Any

from tasks.files import sha256_file, sha256_json, write_json

ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARDS = "model-*-of-*.safetensors"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def weight_files(folder: Path) -> list[str]:
    """The names of the files that hold the weights: one, or the index of the shards and what it names; none where one is absent.

    Written as transformers writes them. A name in an index that is no shard's is not followed, so that none leaves the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    try:
        shards = sorted({str(name) for name in json.loads((folder / INDEX).read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    whole = shards and all(_SHARD.fullmatch(name) and (folder / name).is_file() for name in shards)
    return [INDEX, *shards] if whole else []


def weights_sha256(folder: Path) -> str:
    """sha256 of the weights: the file's own, or that of a JSON object with index and shards by name and the sha256 of each."""
    if (files := weight_files(folder)) == [WEIGHTS]:
        return sha256_file(folder / WEIGHTS)
    return sha256_json({name: sha256_file(folder / name) for name in files})


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter only."""
    return (folder / ADAPTER).is_file()


def is_model(folder: Path) -> bool:
    """Whether there is a model at all."""
    return is_adapter(folder) or (folder / "config.json").is_file()


def load_model(folder: Path, base: Path, dtype: Any) -> Any:
    """The model of a folder, on the base model in `base` if it is an adapter; nothing is asked of the network."""
    from transformers import AutoModelForCausalLM

    if not is_adapter(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    from peft import PeftModel

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), folder)
    return model.to(model.base_model.dtype)


def name_base(folder: Path, source: str) -> None:
    """Write into an adapter which model of the Hub it belongs to, REPOSITORY@REVISION."""
    repo_id, _, revision = source.partition("@")
    config = json.loads((folder / ADAPTER).read_bytes())
    write_json(folder / ADAPTER, {**config, "base_model_name_or_path": repo_id, "revision": revision})


def base_of(folder: Path) -> str:
    """What `name_base` wrote."""
    config = json.loads((folder / ADAPTER).read_bytes())
    return f"{config['base_model_name_or_path']}@{config['revision']}"
