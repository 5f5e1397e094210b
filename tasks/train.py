"""Fine-tune the base model on the train split with TRL and leave the merged model in data/model.

    python -m tasks.train

A training that was killed goes on from its last complete checkpoint when the stage runs again with the same inputs.
"""

import csv
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from tasks.chat import load_tokenizer
from tasks.checkpoints import fingerprint, make_room
from tasks.environment import describe, pick_device, work_offline
from tasks.errors import OutOfMemoryError, StageInputError, StageKilled, TrainingError
from tasks.files import sha256_file, sha256_json, tree_digest, write_atomic
from tasks.fit import ERROR, Fit, fit, weights_of
from tasks.model_folder import ADAPTER, load_model, name_base
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import on_parent_death, parse_error, stage_main, tell
from tasks.records import BaseModelRecord, TrainedModel
from tasks.sft_config import Batch, precisions
from tasks.training_checks import check_merged, check_saved, logits_of, round_weights
from tasks.training_section import Train
from tasks.warm_start import Start, starting_model

_COLUMNS = {
    "train": ("loss", "learning_rate", "grad_norm", "mean_token_accuracy"),
    "eval": ("eval_loss", "eval_mean_token_accuracy", "eval_exact_match", "eval_chrf"),
}


def train(section: Train, start: Start, workspace: Workspace) -> TrainedModel:
    """Train, merge, save to data/model with tokenizer and chat template, write the loss curves and the record.

    The weights are saved in the precision of the base model's own files.

    Raises:
        StageInputError: the prepared dataset or the base model is missing.
        ParamsError: TRL, PEFT or this machine cannot train so.
        TrainingError: the training would have taught nothing, went wrong, or the saved model is not the one that was trained.
    """
    began = time.monotonic()
    if section.accelerate_config is None:
        _see_one_device()
    train_sha256 = sha256_file(workspace.prepared / "train.parquet")
    config = sha256_file(_device_config(section.accelerate_config)) if section.accelerate_config else ""
    devices = sha256_json([config, pick_device(), precisions(section)])
    data = sha256_json([train_sha256, sha256_file(workspace.prepared / "eval.parquet")])
    folder = workspace.checkpoints / fingerprint(section, start.digest, data, devices)
    folder.mkdir(parents=True, exist_ok=True)
    for dropped in make_room(workspace.checkpoints, folder, int(section.checkpoints_gb * 1e9)):
        print(f"dropped the checkpoints of another training, {dropped.name}: train.checkpoints_gb", flush=True)
    if not Fit.path(folder).is_file():
        _fit(section, workspace, start.folder, folder)
    found = Fit.model_validate_json(Fit.path(folder).read_bytes())
    merge_error = _save(section, workspace, start.folder, weights_of(folder), found.probe)
    _write_curves(found, workspace.plots)
    record = TrainedModel(
        digest=tree_digest(workspace.candidate),
        base_digest=tree_digest(workspace.base),
        start_digest=start.digest,
        start_version=start.version,
        train_sha256=train_sha256,
        method=section.method,
        dtype=precisions(section)[1],
        seed=section.seed,
        n_parameters=found.n_parameters,
        n_trainable=found.n_trainable,
        steps=found.steps,
        best_step=found.best_step,
        epochs=found.epochs,
        n_processes=found.n_processes,
        per_device_train_batch_size=found.per_device_train_batch_size,
        gradient_accumulation_steps=found.gradient_accumulation_steps,
        train_loss=found.values("loss")[-1],
        eval_loss_before=found.values("eval_loss")[0],
        eval_loss_after=found.eval_loss,
        merge_error=merge_error,
        seconds=round(time.monotonic() - began, 1),
        environment=describe(workspace.root),
    ).write(workspace.record("train"))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(workspace.champion_start, ignore_errors=True)
    return record


def _see_one_device() -> None:
    """The first one: of several, transformers would make data-parallel replicas, which TRL refuses. Before CUDA is begun."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def _device_config(path: str) -> Path:
    if not Path(path).is_file():
        raise StageInputError(f"train.accelerate_config {path}: no such file; `accelerate config` writes one")
    return Path(path)


def _fit(section: Train, workspace: Workspace, start: Path, folder: Path) -> None:
    """Train; where memory runs out, with a smaller batch and as many rows a step."""
    batch = Batch.of(section)
    while True:
        try:
            return _attempt(section, workspace, start, folder, batch)
        except OutOfMemoryError:
            if (smaller := batch.smaller()) is None:
                raise
        batch = smaller
        _release_memory()
        tell(f"out of memory; on with batches of {batch.per_device} and {batch.accumulation} of them a step")


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _attempt(section: Train, workspace: Workspace, start: Path, folder: Path, batch: Batch) -> None:
    if section.accelerate_config is None:
        fit(section, workspace, start, folder, batch)
        return
    (folder / ERROR).unlink(missing_ok=True)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", section.accelerate_config]
    of_batch = ["--batch", str(batch.per_device), str(batch.accumulation)]
    command = [*launch, "-m", "tasks.fit", "--start", str(start), "--folder", str(folder), *of_batch]
    # The group's SIGTERM reaches the launched processes too: this one waits until they have saved their checkpoint.
    told: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    process = subprocess.Popen(command, cwd=workspace.root, preexec_fn=partial(on_parent_death, signal.SIGTERM))
    code = process.wait()
    signal.signal(signal.SIGTERM, handler)
    if told:
        sys.exit(128 + signal.SIGTERM)
    if (folder / ERROR).is_file() and (error := parse_error((folder / ERROR).read_text().splitlines())):
        raise error
    if code < 0:
        raise StageKilled(f"train: `accelerate launch` was killed (status {code}); out of memory, or ended from outside")
    if not Fit.path(folder).is_file():
        raise TrainingError(
            f"`accelerate launch --config_file {section.accelerate_config}` ended with {code}; its log stands above"
        )


def _save(section: Train, workspace: Workspace, start: Path, weights: Path, probe: list[list[int]]) -> float | None:
    """Save the merged model, or the adapter, with the tokenizer to data/model; load that again and compare it with what stood in
    memory after the training.

    Returns:
        The difference that merging made to the logits, as a share of their norm; None where that could not be compared.
    """
    import torch
    from transformers import AutoConfig

    tokenizer = load_tokenizer(workspace.base)
    if section.merge:
        model = _merged(section, start, weights)
    else:
        _copy_adapter(workspace, weights)
        model = load_model(workspace.candidate, workspace.base, torch.float32)
    merge_error = _compare(section, model, weights, probe)
    tokenizer.save_pretrained(workspace.candidate)
    dtype = AutoConfig.from_pretrained(workspace.base).dtype or torch.float32
    if section.merge:
        round_weights(model, dtype)
    in_memory = logits_of(model, probe)
    if section.merge:
        model.config.use_cache = True
        model.to(dtype).save_pretrained(workspace.candidate)
    del model
    check_saved(workspace.candidate, workspace.base, in_memory, probe, tokenizer)
    return merge_error


def _copy_adapter(workspace: Workspace, weights: Path) -> None:
    workspace.candidate.mkdir(parents=True, exist_ok=True)
    for name in (ADAPTER, "adapter_model.safetensors"):
        shutil.copyfile(weights / name, workspace.candidate / name)
    name_base(workspace.candidate, BaseModelRecord.read(workspace.record("base")).source)


def _compare(section: Train, model: Any, weights: Path, probe: list[list[int]]) -> float | None:
    from safetensors.torch import load_file

    if not (weights / "probe.safetensors").is_file():
        return None
    trained = load_file(weights / "probe.safetensors")
    logits = [trained[str(number)] for number in range(len(probe))]
    return check_merged(logits, logits_of(model, probe), precisions(section)[1])


def _merged(section: Train, start: Path, weights: Path) -> Any:
    """The trained model in float32: all its weights, or those that it started from with the adapter added."""
    import torch
    from transformers import AutoModelForCausalLM

    if section.method == "full":
        return AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    return PeftModel.from_pretrained(model, weights).merge_and_unload()


def _write_curves(found: Fit, folder: Path) -> None:
    """One CSV file a curve: its step, and what was logged of the columns; the first of them is the loss."""
    for name, columns in _COLUMNS.items():
        logged = [column for column in columns if found.values(column)]
        rows: dict[Any, dict[str, Any]] = {}
        for entry in found.history:
            if values := {column: entry[column] for column in logged if column in entry}:
                rows.setdefault(entry["step"], {}).update(values)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["step", *logged])
        table.writerows([step, *(row.get(column, "") for column in logged)] for step, row in rows.items())
        write_atomic(folder / f"{name}.csv", text.getvalue().encode())


def _run(workspace: Workspace, params: Params) -> TrainedModel:
    if not (workspace.base / "config.json").is_file():
        raise StageInputError(
            f"{workspace.base}: no config.json, so the stage base has not finished; run `dvc repro` or `refit run`"
        )
    start = starting_model(params, workspace)
    work_offline()
    return train(params.train, start, workspace)


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
