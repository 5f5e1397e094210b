"""From model, rows and params.yaml to TRL's trainer, ready to train."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.environment import pick_device
from tasks.errors import TrainingError
from tasks.files import parse_yaml
from tasks.process import tell
from tasks.reply_scores import generation_metrics
from tasks.sft_config import Batch, attention, lora_config, precisions, refusals, sft_config, speed_ups
from tasks.training_checks import check_apart
from tasks.training_section import Train

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.sft_trainer import Trainer


def build_trainer(
    section: Train, start: Path, folder: Path, tokenizer: Any, tables: "dict[str, pa.Table]", batch: Batch
) -> "Trainer":
    """TRL's trainer for the model in `start`, and a line of the log that says how it trains.

    Args:
        folder: of its checkpoints.
        tables: the prepared splits `train` and `eval`: `input_ids`, `labels`, `n_tokens`.

    Raises:
        ParamsError: as `sft_config`, or TRL or PEFT refuse the values together with this model.
        TrainingError: a packed row would be cut or see another, a row was lost, or too few processes were started.
    """
    from datasets import Dataset

    from tasks.sft_trainer import Trainer

    config = sft_config(section, folder, batch)
    _check_processes(section, config.world_size)
    weights, compute = precisions(section)
    # With a fingerprint of our own, or datasets would pickle the whole table to make one: 8 s for a million rows.
    columns = ["input_ids", "labels"]
    rows = {name: Dataset(table.select(columns), fingerprint=f"{folder.name}{name}") for name, table in tables.items()}
    lengths = {name: table["n_tokens"].to_pylist() for name, table in tables.items()}
    if config.packing and (longest := max(map(max, lengths.values()))) > config.max_length:
        raise TrainingError(
            f"train.sft.max_length is {config.max_length}, and a row has {longest} tokens and would be cut; raise it"
        )
    # Rows of like length side by side, so that a batch has little padding; the trainer sorts only what it trains on.
    rows["eval"] = rows["eval"].select(sorted(range(len(lengths["eval"])), key=lengths["eval"].__getitem__))
    model = _load(section, start, weights, compute)
    score = partial(generation_metrics, tokenizer=tokenizer, rows=list(rows["eval"])) if section.predict_with_generate else None
    with refusals("train", "trl"):
        trainer = Trainer(
            model=model,
            args=config,
            lengths=lengths["train"],
            patience=section.early_stopping_patience,
            score_replies=score,
            processing_class=tokenizer,
            train_dataset=rows["train"],
            eval_dataset=rows["eval"],
            peft_config=lora_config(section, model.config.num_hidden_layers),
        )
    if trainer.padding_free:
        check_apart(trainer.model, trainer.data_collator, list(rows["train"].select(range(min(2, len(rows["train"]))))))
    if not config.packing and len(trainer.train_dataset) != len(rows["train"]):
        raise TrainingError(
            f"the trainer kept {len(trainer.train_dataset)} of {len(rows['train'])} training rows; none may be lost"
        )
    tell(
        f"{section.method} in {compute} on {pick_device()} ({', '.join(speed_ups(config, compute))}), batches of "
        f"{batch.per_device} x {batch.accumulation} x {config.world_size}: {len(rows['train'])} rows"
    )
    return trainer


def _check_processes(section: Train, started: int) -> None:
    if section.accelerate_config is None:
        return
    wanted = parse_yaml(Path(section.accelerate_config).read_text(encoding="utf-8")).get("num_processes")
    if started != wanted:
        raise TrainingError(
            f"{section.accelerate_config}: wants {wanted} processes, and `accelerate launch` started {started}; correct "
            "num_processes, or distributed_type (deployments/accelerate/cpu2.yaml for processors)"
        )


def _load(section: Train, start: Path, weights: str, compute: str) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantised: dict[str, Any] = {}
    if section.method == "qlora":
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute}
        quantised = {
            "quantization_config": BitsAndBytesConfig(load_in_4bit=True, **settings),
            "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))},
        }
    return AutoModelForCausalLM.from_pretrained(start, dtype=weights, attn_implementation=attention(compute), **quantised)
