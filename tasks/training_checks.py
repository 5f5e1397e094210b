"""What a training must not pass over in silence: rows that teach nothing, weights that stay, a model that is not as saved."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import BaseModelError, TrainingError, one_line
from tasks.model_folder import load_model

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

_STEPS_TO_MOVE = 3
"""In the first step a warm-up has rate 0, and of LoRA the matrix A has gradient 0 for as long as B is 0."""
_LOGIT_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""Error of the merged model's logits against those of model and adapter, by precision of the training (`relative_error`)."""


def check_tokenizer(base: Path, tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Refuse a base model whose tokenizer.json AutoTokenizer, which its users and tools load it with, reads as something else.

    Some classes of transformers rebuild what stands there: Qwen2Tokenizer splits words by a pattern of its own.

    Args:
        tokenizer: of `load_tokenizer`.
        rows: tokens of some texts.

    Raises:
        BaseModelError: as described.
    """
    from transformers import AutoTokenizer

    advice = "set tokenizer_class to PreTrainedTokenizerFast in the base model's tokenizer_config.json, or take another model"
    try:
        auto = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    except Exception as error:
        raise BaseModelError(f"{base}: AutoTokenizer does not load its tokenizer ({one_line(error)}); {advice}") from error
    texts = tokenizer.batch_decode(rows)
    ours, theirs = (one(texts, add_special_tokens=False)["input_ids"] for one in (tokenizer, auto))
    if ours != theirs:
        raise BaseModelError(
            f"{base}: {type(auto).__name__}, by AutoTokenizer, gives other tokens than its tokenizer.json; {advice}"
        )


def check_supervision(table: "pa.Table", eos_token_id: int, split: str, source: Callable[[int], str]) -> None:
    """Refuse rows on which a trainer would learn nothing, or that would not teach the model to stop.

    Args:
        table: with the column `labels`, -100 where the loss does not count.
        source: where a row of it comes from, FILE:LINE.

    Raises:
        TrainingError: with the row's number in its split and its source.
    """
    import numpy as np

    for first, labels, starts, ends in _flattened(table):
        last = _last_supervised(labels, starts, ends)
        silent = last < starts
        taught = np.where(silent, -100, labels[last])
        for number in np.flatnonzero(silent | (taught != eos_token_id))[:1]:
            row = first + int(number)
            where = f"{split} row {row} ({source(row)})"
            if silent[number]:
                raise TrainingError(f"{where}: no supervised token, the trainer would learn nothing from it; run prepare again")
            raise TrainingError(
                f"{where}: the last supervised token is not the end-of-turn token; the model would not learn to stop"
            )


def _flattened(table: "pa.Table") -> Any:
    """By chunk of the table: number of its first row, its labels one after another, where in them each row starts and ends."""
    import numpy as np

    first = 0
    for chunk in table["labels"].chunks:
        offsets = chunk.offsets.to_numpy()
        if len(chunk):  # one masked token at the end, so that a row without tokens has a place to look at too
            yield first, np.append(chunk.values.to_numpy(), np.int32(-100)), offsets[:-1], offsets[1:]
        first += len(chunk)


def _last_supervised(labels: Any, starts: Any, ends: Any) -> Any:
    """For each row the place of its last supervised token; a place before its start if it has none."""
    import numpy as np

    latest = np.maximum.accumulate(np.where(labels != -100, np.arange(len(labels)), -1))
    return np.where(ends > starts, latest[ends - 1], -1)


def only_last_replies(table: "pa.Table") -> "pa.Table":
    """The table with labels on the last run of supervised tokens of each row: its last reply (TRL's completion_only_loss)."""
    import numpy as np
    import pyarrow as pa

    chunks = []
    for _, labels, starts, ends in _flattened(table):
        places = np.arange(len(labels))
        masked = np.maximum.accumulate(np.where(labels == -100, places, -1))  # the last masked token up to each place
        begins = np.maximum(masked[_last_supervised(labels, starts, ends)] + 1, starts)
        kept = np.where(places[starts[0] : ends[-1]] >= np.repeat(begins, ends - starts), labels[starts[0] : ends[-1]], -100)
        offsets = np.append(starts, ends[-1]) - starts[0]
        chunks.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(kept, pa.int32())))
    field = table.schema.field("labels")
    return table.set_column(table.schema.get_field_index("labels"), field, pa.chunked_array(chunks, field.type))


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


def weights_hash(model: Any) -> dict[str, int]:
    """By name of each trainable parameter, one number for its bytes."""
    import torch

    return {
        name: torch.hash_tensor(parameter.detach()).view(torch.int64).item()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def check_changed(before: dict[str, int], after: dict[str, int], steps: int) -> None:
    """Refuse a training that left a trainable parameter as it was.

    Raises:
        TrainingError: with the parameters.
    """
    still = [name for name, value in after.items() if before.get(name) == value]
    if still and steps >= _STEPS_TO_MOVE:
        raise TrainingError(
            f"{len(still)} of {len(after)} trainable parameters are the same after {steps} steps, the first is {still[0]}; "
            "raise train.learning_rate, or exclude them (train.lora.target_modules)"
        )


def check_apart(model: Any, collate: Any, rows: Sequence[dict[str, list[int]]]) -> None:
    """Refuse packing where the model's attention lets one row of a packed batch see another.

    Args:
        collate: the trainer's, which puts several rows one after another.

    Raises:
        TrainingError: the rows say something else together than alone.
    """
    import torch

    packed = {name: value.to(model.device) for name, value in collate(list(rows)).items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in collate(list(rows)).items() if not isinstance(value, torch.Tensor)}
    packed.pop("labels", None)
    alone = logits_of(model, [row["input_ids"] for row in rows])
    training = model.training
    model.eval()
    with torch.no_grad():
        together = model(**packed, **others).logits[0].float().cpu()
    model.train(training)
    difference = relative_error([together], [torch.cat(alone)])
    if not difference <= _LOGIT_TOLERANCE["bfloat16"]:
        raise TrainingError(
            f"train.sft.packing: with this attention packed rows see each other (logits differ by {difference:.1%}); "
            "set it to false, or install FlashAttention 2"
        )


def logits_of(model: Any, rows: Sequence[Sequence[int]]) -> "list[torch.Tensor]":
    """What the model says after each token of each row, in float32 on the CPU, each [tokens, vocabulary]."""
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([row], device=model.device)).logits[0].float().cpu() for row in rows]
    model.train(training)
    return found


def relative_error(found: "Sequence[torch.Tensor]", wanted: "Sequence[torch.Tensor]") -> float:
    """Norm of the differences of all logits over the norm of those that are wanted.

    The arithmetic of bfloat16 alone makes about 2 % in a model of 30 layers; the largest single difference varies up to 5 %.
    """
    off = sum(float((one - other).square().sum()) for one, other in zip(found, wanted, strict=True))
    return math.sqrt(off / sum(float(one.square().sum()) for one in wanted))


def check_merged(with_adapter: "Sequence[torch.Tensor]", merged: "Sequence[torch.Tensor]", dtype: str) -> float:
    """Refuse a merged model that says something else than the model with its adapter did.

    Returns:
        Their `relative_error`.

    Raises:
        TrainingError: it is above what the precision explains.
    """
    difference = relative_error(merged, with_adapter)
    if not difference <= _LOGIT_TOLERANCE[dtype]:
        raise TrainingError(
            f"the merged model differs from the trained one: logits by {difference:.1%}, "
            f"allowed {_LOGIT_TOLERANCE[dtype]:.1%} in {dtype}; try other train.lora settings"
        )
    return difference


def round_weights(model: Any, dtype: "torch.dtype") -> None:
    """Give the weights of a model in float32 the values that files of this precision can hold; its buffers are never saved."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))


def check_saved(
    folder: Path, base: Path, in_memory: "Sequence[torch.Tensor]", rows: Sequence[Sequence[int]], tokenizer: Any
) -> None:
    """Load what was saved again and refuse it if it says something else, writes chats otherwise, or would not stop.

    Raises:
        TrainingError: as described.
    """
    import torch
    from transformers import AutoTokenizer

    model = load_model(folder, base, torch.float32)
    if not all(torch.equal(one, other) for one, other in zip(in_memory, logits_of(model, rows), strict=True)):
        raise TrainingError(f"{folder}: the saved model, loaded again, gives other logits than the one in memory")
    if AutoTokenizer.from_pretrained(folder).chat_template != tokenizer.chat_template:
        raise TrainingError(f"{folder}: the saved chat template is not the one that was trained with")
    stops = model.generation_config.eos_token_id
    if tokenizer.eos_token_id not in (stops if isinstance(stops, list) else [stops]):
        raise TrainingError(f"{folder}: generation would not stop at {tokenizer.eos_token!r}, the end-of-turn token trained with")
