"""Hashes, YAML, and writes that leave either the whole file or none."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import DataError, StageInputError, one_line

# What a model folder of one shard may hold: no pickles, no code.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_BLOCK = 1 << 20
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where PyYAML has it: ten times as fast


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML document; nothing in it is executed.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_YAML_LOADER)


def read_data_yaml(path: Path, named: str) -> Any:
    """Plain values of a YAML file that lies with the data; `named` is the parameter that has its path.

    Raises:
        DataError: it is missing, or not YAML in UTF-8.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; params.yaml names it as {named}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML: {one_line(error)}") from None


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of one file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal sha256 of a JSON value in canonical form (sorted keys, no blanks)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, keyed by its relative POSIX path, in sorted order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def tree_digest(folder: Path) -> str:
    """One sha256 for a folder: of its files' relative paths and hashes. This is what "the digest of a model" means."""
    return sha256_json(hash_tree(folder))


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, also after a crash, sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def sync(path: Path) -> None:
    """Wait until the disk has the bytes of a file."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def copy_atomic(source: Path, target: Path) -> None:
    """As `write_atomic` with the bytes of another file, which need not fit into memory."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            shutil.copyfileobj(reader, writer, _BLOCK)
            writer.flush()
            os.fsync(writer.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, keys in the given order; NaN and infinity are refused with a ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomic(path, "".join(lines).encode("utf-8", "surrogatepass"))


def read_jsonl(path: Path, named: str) -> list[Any]:
    """What `write_jsonl` wrote; nothing where there is no file. `named` is how a message shows the path.

    Raises:
        StageInputError: a line is not JSON.
    """
    if not path.is_file():
        return []
    try:
        return [json.loads(line.decode("utf-8", "surrogatepass")) for line in path.read_bytes().splitlines()]
    except ValueError:
        raise StageInputError(
            f"{named}: a line of it is not JSON; mend it, or delete the file, which forgets what it says"
        ) from None
