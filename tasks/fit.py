"""The part of the stage `train` that runs on every device: load, train, and leave adapter or weights with what they cost.

`tasks.train` calls it, or starts it through `accelerate launch` where train.accelerate_config names a file:

    accelerate launch --config_file FILE -m tasks.fit --start FOLDER --folder FOLDER --batch ROWS BATCHES
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue

from tasks.chat import load_tokenizer
from tasks.checkpoints import lacks_evaluation, last_complete_checkpoint
from tasks.environment import keep_freed_memory, work_offline
from tasks.errors import OutOfMemoryError, PipelineError, StageInputError, TrainingError, one_line
from tasks.files import write_atomic
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.process import die_with_parent, format_error, tell
from tasks.sft_config import Batch
from tasks.sft_setup import build_trainer
from tasks.training_checks import (
    check_changed,
    check_losses,
    check_supervision,
    check_tokenizer,
    logits_of,
    only_last_replies,
    weights_hash,
)
from tasks.training_section import Train

if TYPE_CHECKING:
    import pyarrow as pa

ERROR = "error.txt"
"""In the folder of a training: what a launched process would have raised."""
_PROBE_ROWS = 2
_TOKENIZED_ROWS = 100


class Fit(BaseModel):
    """What was trained, in `fit.json` beside the folder `weights`; `history` has what transformers logged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    best_step: int | None
    epochs: float
    n_parameters: int
    n_trainable: int
    n_processes: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    history: list[dict[str, JsonValue]]
    probe: list[list[int]]

    @staticmethod
    def path(folder: Path) -> Path:
        """Written last: with it the training is over."""
        return folder / "fit.json"

    @property
    def eval_loss(self) -> float:
        """Of the weights that were taken: those of the best step, or of the last one."""
        evaluated = [entry for entry in self.history if "eval_loss" in entry]
        taken = [entry for entry in evaluated if entry["step"] == self.best_step]
        return float(str((taken or evaluated)[-1]["eval_loss"]))

    def values(self, key: str) -> list[float]:
        """What was logged under a name, in order."""
        return [float(value) for entry in self.history if isinstance(value := entry.get(key), int | float)]


def weights_of(folder: Path) -> Path:
    """The adapter, or all weights, as the trainer saved them, with the logits of the probe rows in `probe.safetensors`."""
    return folder / "weights"


def fit(section: Train, workspace: Workspace, start: Path, folder: Path, batch: Batch) -> None:
    """Train the model in `start` and leave `fit.json` and `weights` in `folder`, where its checkpoints lie too.

    The loss counts on the labelled tokens of data/prepared only: assistant messages with their end-of-turn token.

    Raises:
        StageInputError: the prepared dataset is missing.
        ParamsError: as `build_trainer`.
        BaseModelError: as `check_tokenizer`.
        OutOfMemoryError: a smaller batch may do; the training goes on from its last checkpoint.
        TrainingError: a row has no supervised token, a number is not finite, a parameter did not change, or a tracker failed.
        SystemExit: SIGTERM came; a checkpoint was saved.
    """
    work_offline()
    keep_freed_memory()
    _keep_trackers_in(folder.parent.parent, folder.name)
    import transformers

    transformers.logging.set_verbosity_error()
    tokenizer = load_tokenizer(workspace.base)
    tables = {name: load_split(workspace.prepared / f"{name}.parquet", section) for name in ("train", "eval")}
    for name, table in tables.items():
        check_supervision(table, tokenizer.eos_token_id, name, partial(source_of, workspace.prepared / f"{name}.parquet"))
    check_tokenizer(workspace.base, tokenizer, tables["train"]["input_ids"][:_TOKENIZED_ROWS].to_pylist())
    transformers.set_seed(section.seed)
    trainer = build_trainer(section, start, folder, tokenizer, tables, batch)
    _train(trainer, folder, workspace.prepared / "train.parquet")
    if not trainer.is_world_process_zero():
        trainer.save_model(str(weights_of(folder)))
        return
    history = trainer.state.log_history
    result = Fit(
        steps=trainer.state.global_step,
        best_step=trainer.state.best_global_step if section.metric_for_best_model else None,
        epochs=round(float(trainer.state.epoch or 0), 4),
        **_count(trainer.model),
        n_processes=trainer.args.world_size,
        per_device_train_batch_size=batch.per_device,
        gradient_accumulation_steps=batch.accumulation,
        history=history,
        probe=[row[:64] for row in tables["eval"]["input_ids"][:_PROBE_ROWS].to_pylist()],
    )
    check_losses(result.values("loss"), result.values("eval_loss"))
    trainer.save_model(str(weights_of(folder)))
    _save_probe(trainer, result.probe, weights_of(folder))
    write_atomic(Fit.path(folder), result.model_dump_json().encode())


def _keep_trackers_in(cache: Path, name: str) -> None:
    """Where those of train.sft.report_to write that are given no server: not into the workspace's top."""
    places = {
        "TENSORBOARD_LOGGING_DIR": f"{cache}/tensorboard/{name}",
        "WANDB_DIR": f"{cache}",
        "TRACKIO_DIR": f"{cache}/trackio",
        "MLFLOW_TRACKING_URI": f"sqlite:///{cache}/mlflow.db",
    }
    for variable, place in places.items():
        os.environ.setdefault(variable, place)


def load_split(path: Path, section: Train) -> "pa.Table":
    """`input_ids`, `labels` and `n_tokens` of a prepared split."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise StageInputError(f"{path}: missing, so the stage prepare has not finished; run `dvc repro` or `refit run`")
    table = pq.read_table(path, columns=["input_ids", "labels", "n_tokens"])
    return only_last_replies(table) if section.completion_only_loss else table


def source_of(path: Path, row: int) -> str:
    """Where a row of a prepared split comes from, FILE:LINE; read only where a message needs it."""
    import pyarrow.parquet as pq

    return str(pq.read_table(path, columns=["source"])["source"][row])


def _train(trainer: Any, folder: Path, rows: Path) -> None:
    """Train from the last checkpoint; `rows` is the split that the trainer was given."""
    from accelerate.utils.memory import should_reduce_batch_size

    from tasks.sft_trainer import NotFiniteError

    checkpoint = last_complete_checkpoint(folder)
    trainer.args.eval_on_start = checkpoint is None or lacks_evaluation(checkpoint, trainer.args.eval_steps)
    if checkpoint:
        tell(f"resumed from {checkpoint.name}")
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    before = {} if sharded else weights_hash(trainer.model)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except NotFiniteError as error:
        raise TrainingError(
            f"{error}, on the rows {', '.join(_sources(rows, error.input_ids)) or 'of a packed batch'}; wanted a finite number "
            "above 0: lower train.learning_rate, or look at these rows"
        ) from error
    except Exception as error:
        if (tracker := type(error).__module__.partition(".")[0]) in trainer.args.report_to:
            raise TrainingError(f"train.sft.report_to: {tracker} failed: {one_line(error)}") from error
        if not should_reduce_batch_size(error):
            raise
        raise OutOfMemoryError(
            "out of memory with one row at a time; take a smaller base model, lower validate.max_length, or set "
            "train.sft: {activation_checkpointing: true}"
        ) from None
    if not sharded:
        check_changed(before, weights_hash(trainer.model), _step_taken(trainer))


def _step_taken(trainer: Any) -> int:
    """The step of the weights that the model has after its training."""
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    return int(best if best is not None else trainer.state.global_step)


def _sources(path: Path, input_ids: Any) -> list[str]:
    """Where the rows of a padded batch of this split come from, FILE:LINE."""
    import pyarrow.parquet as pq

    batch = [row.tolist() for row in input_ids]
    table = pq.read_table(path, columns=["input_ids", "source"])
    rows = (row.as_py() for row in table["input_ids"])
    return [
        str(source)
        for source, row in zip(table["source"], rows, strict=True)
        if any(padded[: len(row)] == row for padded in batch)
    ]


def _save_probe(trainer: Any, probe: list[list[int]], folder: Path) -> None:
    """The logits of the model as it stands in memory, to compare the saved one with; not of one that is spread over devices."""
    from safetensors.torch import save_file

    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        logits = logits_of(trainer.model, probe)
        save_file({str(number): rows for number, rows in enumerate(logits)}, folder / "probe.safetensors")


def _count(model: Any) -> dict[str, int]:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "n_parameters": sum(size for size, _ in sizes),
        "n_trainable": sum(size for size, requires_grad in sizes if requires_grad),
    }


def main() -> int:
    """One of the processes that `accelerate launch` starts; its error is left in the training's folder for `tasks.train`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--start", type=Path, required=True, help="folder of the model to train")
    parser.add_argument("--folder", type=Path, required=True, help="of the training: its checkpoints and its result")
    parser.add_argument("--batch", type=int, nargs=2, required=True, help="rows at a time, and how many such batches a step")
    arguments = parser.parse_args()
    die_with_parent()
    workspace = Workspace.find()
    try:
        fit(load_params(workspace.params).train, workspace, arguments.start, arguments.folder, Batch(*arguments.batch))
    except PipelineError as error:
        write_atomic(arguments.folder / ERROR, format_error(error).encode())
        print(format_error(error), file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
