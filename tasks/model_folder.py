"""A model in a folder: all of its weights, or an adapter on the base model."""

import json
from pathlib import Path
from typing import Any

from tasks.files import write_json

ADAPTER = "adapter_config.json"


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
