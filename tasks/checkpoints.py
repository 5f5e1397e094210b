"""Checkpoints of a training: which belong to it, which are whole, and which must go."""

import json
import shutil
from importlib import metadata
from pathlib import Path

from tasks.files import hash_tree, sha256_json, sync, write_json
from tasks.training_section import Train

COMPLETE = "COMPLETE"
"""The file of a checkpoint that is written after all others, with their sha256."""
_STATE = "trainer_state.json"


def fingerprint(section: Train, start_digest: str, data_sha256: str, devices: str) -> str:
    """What a checkpoint belongs to: parameters, model, data, devices and precision, and the libraries that read it."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")}
    parameters = section.model_dump(mode="json", exclude={"checkpoints_gb", "merge"})
    return sha256_json([parameters, start_digest, data_sha256, devices, versions])[:16]


def mark_complete(checkpoint: Path) -> None:
    """Write the marker, once the disk has all that it stands for."""
    for name in (hashes := hash_tree(checkpoint)):
        sync(checkpoint / name)
    write_json(checkpoint / COMPLETE, hashes)


def lacks_evaluation(checkpoint: Path, eval_steps: int) -> bool:
    """Whether the evaluation of its step was due and not made, since the training was ended just then."""
    state = json.loads((checkpoint / _STATE).read_bytes())
    step = state["global_step"]
    return step % eval_steps == 0 and not any(entry["step"] == step and "eval_loss" in entry for entry in state["log_history"])


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint from which training can go on; None if there is none.

    One that was cut off while it was written, or that lost a file or a byte afterwards, is not considered, nor is that of the
    last step: from there transformers would train one step too many.
    """
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def make_room(folder: Path, keep: Path, limit: int) -> list[Path]:
    """Drop the folders of other trainings, those untouched for longest first, until all take at most `limit` bytes.

    Returns:
        What was dropped.
    """
    others = sorted((path for path in folder.glob("*") if path != keep), key=lambda path: path.stat().st_mtime)
    used = {path: _size(path) for path in (*others, keep)}
    dropped = []
    for path in others:
        if sum(used.values()) <= limit:
            break
        shutil.rmtree(path, ignore_errors=True)
        del used[path]
        dropped.append(path)
    return dropped


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    try:
        wanted = json.loads((checkpoint / COMPLETE).read_bytes())
        state = json.loads((checkpoint / _STATE).read_bytes())
        found = {name: sha256 for name, sha256 in hash_tree(checkpoint).items() if name != COMPLETE}
        return bool(found == wanted and state["global_step"] < state["max_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
