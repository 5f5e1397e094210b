"""Fine-tune the base model on the train split with TRL and leave the merged model in data/model.

    python -m tasks.train

A training that was killed goes on from its last complete checkpoint when the stage runs again with the same inputs.
"""

import csv
import io
import math
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.environment import describe, keep_freed_memory, pick_device, pick_dtype, work_offline
from tasks.errors import StageInputError, TrainingError
from tasks.files import sha256_file, sha256_json, tree_digest, write_atomic
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import TrainedModel
from tasks.sections import Train

COMPLETE = "COMPLETE"


def train(section: Train, workspace: Workspace) -> TrainedModel:
    """Train, merge, save to data/model with tokenizer and chat template, write the loss curves and the record.

    The loss counts on the labelled tokens of data/prepared only (assistant messages with their end-of-turn token). The weights
    are saved in the precision of the base model's own files.

    Raises:
        StageInputError: the prepared dataset or the base model is missing.
        TrainingError: a row has no supervised token, or a loss is zero or not a number.
    """
    work_offline()
    keep_freed_memory()
    import transformers
    from transformers import AutoTokenizer

    transformers.logging.set_verbosity_error()
    started = time.monotonic()
    splits = {name: _load_split(workspace.prepared / f"{name}.parquet") for name in ("train", "eval")}
    splits["eval"] = _by_length(splits["eval"])
    if not (workspace.base / "config.json").is_file():
        raise StageInputError(
            f"{workspace.base}: no config.json, so the stage base has not finished; run `dvc repro` or `refit run`"
        )
    tokenizer = AutoTokenizer.from_pretrained(workspace.base)
    for name, split in splits.items():
        check_supervision(split["labels"], tokenizer.eos_token_id, name)

    base_digest, train_sha256 = tree_digest(workspace.base), sha256_file(workspace.prepared / "train.parquet")
    run_folder = workspace.checkpoints / fingerprint(section, base_digest, train_sha256)
    transformers.set_seed(section.seed)
    dtype = pick_dtype(section.dtype) if section.method == "lora" else "float32"
    trainer = _build_trainer(section, workspace.base, tokenizer, splits, run_folder, dtype)
    checkpoint = last_complete_checkpoint(run_folder)
    print(
        f"{section.method} in {dtype} on {pick_device()}: {len(splits['train'])} rows"
        + (f", resumed from {checkpoint.name}" if checkpoint else "")
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    eval_losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    check_losses(losses, eval_losses)
    n_parameters, n_trainable = _count(trainer.model)
    _save(trainer.model, tokenizer, workspace.base, workspace.candidate)
    _write_curves(history, workspace.plots)
    record = TrainedModel(
        digest=tree_digest(workspace.candidate),
        base_digest=base_digest,
        train_sha256=train_sha256,
        method=section.method,
        dtype=dtype,
        n_parameters=n_parameters,
        n_trainable=n_trainable,
        steps=trainer.state.global_step,
        epochs=round(float(trainer.state.epoch or 0), 4),
        train_loss=losses[-1],
        eval_loss_before=eval_losses[0],
        eval_loss_after=eval_losses[-1],
        seconds=round(time.monotonic() - started, 1),
        environment=describe(workspace.root),
    ).write(workspace.record("train"))
    shutil.rmtree(run_folder, ignore_errors=True)
    return record


def check_supervision(labels: list[list[int]], eos_token_id: int, split: str) -> None:
    """Refuse rows on which a trainer would learn nothing, or that would not teach the model to stop.

    Raises:
        TrainingError: with the row's number in its split.
    """
    for number, row in enumerate(labels):
        supervised = [label for label in row if label != -100]
        if not supervised:
            raise TrainingError(
                f"{split} row {number}: no supervised token, the trainer would learn nothing from it; run prepare again"
            )
        if supervised[-1] != eos_token_id:
            raise TrainingError(
                f"{split} row {number}: the last supervised token is not the end-of-turn token; the model would not learn to stop"
            )


def check_losses(losses: list[float], eval_losses: list[float]) -> None:
    """Refuse a training whose loss is missing, no number or zero, as with labels that are all masked.

    Raises:
        TrainingError: with the first bad step.
    """
    if not losses:
        raise TrainingError("no loss was logged; wanted at least one: lower train.logging_steps to at most the number of steps")
    for number, loss in enumerate(losses, 1):
        if not math.isfinite(loss) or loss == 0:
            raise TrainingError(
                f"logged loss {number} is {loss}; wanted a finite number above 0: lower train.learning_rate or look at the data"
            )
    if not eval_losses or not all(map(math.isfinite, eval_losses)):
        raise TrainingError(
            f"eval losses are {eval_losses}; wanted finite numbers: lower train.learning_rate or look at the data"
        )


def fingerprint(section: Train, base_digest: str, train_sha256: str) -> str:
    """What a checkpoint belongs to: parameters, base, data and the libraries that read it."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft")}
    return sha256_json([section.model_dump(mode="json"), base_digest, train_sha256, versions])[:16]


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose marker was written after everything else; one that was cut off is not considered."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _load_split(path: Path) -> Any:
    import pyarrow.parquet as pq
    from datasets import Dataset

    if not path.is_file():
        raise StageInputError(f"{path}: missing, so the stage prepare has not finished; run `dvc repro` or `refit run`")
    return Dataset(pq.read_table(path, columns=["input_ids", "labels"]))


def _by_length(split: Any) -> Any:
    """Rows of like length side by side, so that a batch has little padding; the trainer itself sorts only what it trains on."""
    lengths = [len(row) for row in split["input_ids"]]
    return split.select(sorted(range(len(lengths)), key=lengths.__getitem__))


def _build_trainer(section: Train, base: Path, tokenizer: Any, splits: dict[str, Any], run_folder: Path, dtype: str) -> Any:
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Progress(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
            shown = {key: value for key, value in (logs or {}).items() if key in ("loss", "eval_loss")}
            for key, value in shown.items():
                print(f"step {state.global_step}/{state.max_steps} {key} {value:.4f}", flush=True)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    cuda = pick_device() == "cuda"
    config = SFTConfig(
        output_dir=str(run_folder),
        max_length=None,
        packing=False,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},
        learning_rate=section.learning_rate,
        lr_scheduler_type=section.lr_scheduler_type,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        num_train_epochs=section.num_train_epochs,
        max_steps=section.max_steps,
        per_device_train_batch_size=section.per_device_train_batch_size,
        per_device_eval_batch_size=section.per_device_train_batch_size,
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        train_sampling_strategy="group_by_length",
        bf16=cuda and dtype == "bfloat16",
        activation_checkpointing=False,
        eval_strategy="steps",
        eval_steps=section.eval_steps,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=section.eval_steps,
        save_total_limit=2,
        logging_steps=section.logging_steps,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        seed=section.seed,
        data_seed=section.seed,
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=splits["train"],
        eval_dataset=splits["eval"],
        peft_config=LoraConfig(task_type="CAUSAL_LM", **section.lora.model_dump(mode="json"))
        if section.method == "lora"
        else None,
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) != len(splits["train"]):
        raise TrainingError(
            f"the trainer kept {len(trainer.train_dataset)} of {len(splits['train'])} training rows; none may be lost"
        )
    return trainer


def _count(model: Any) -> tuple[int, int]:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trainable = sum(size for size, requires_grad in sizes if requires_grad)
    total = sum(size for size, _ in sizes)
    return total, trainable


def _save(model: Any, tokenizer: Any, base: Path, target: Path) -> None:
    import torch
    from transformers import AutoConfig

    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.config.use_cache = True
    merged.to(AutoConfig.from_pretrained(base).dtype or torch.float32).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_curves(history: list[dict[str, float]], folder: Path) -> None:
    for name, key in (("train", "loss"), ("eval", "eval_loss")):
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["step", key])
        table.writerows([entry["step"], entry[key]] for entry in history if key in entry)
        write_atomic(folder / f"{name}.csv", text.getvalue().encode())


def _run(workspace: Workspace, params: Params) -> TrainedModel:
    return train(params.train, workspace)


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
