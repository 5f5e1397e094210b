"""How a chat template writes a conversation, and which of its tokens a training would count the loss on."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tasks.chat import Encoder, Message, Tools, conversation
from tasks.chat_template import read_template, trl_templates
from tasks.errors import InputError, StageInputError
from tasks.reply_scores import last_reply

DEMONSTRATION: list[Message] = [
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "Where is my order?"},
    {"role": "assistant", "content": "On its way."},
    {"role": "user", "content": "When will it be here?"},
    {"role": "assistant", "content": "Tomorrow."},
]


def template_of(name: str) -> str:
    """The Jinja text of one of TRL's templates, or of a file.

    Raises:
        InputError: it is neither.
    """
    if name in trl_templates():
        return read_template(name)
    if not Path(name).is_file():
        raise InputError(f"--template {name}: neither a file nor one of TRL's templates, {', '.join(trl_templates())}")
    return Path(name).read_text(encoding="utf-8")


def row_of(split: Path, row: int) -> tuple[list[Message], list[dict[str, Any]]]:
    """Messages and tools of one row of a prepared split.

    Raises:
        StageInputError: there is no such split yet.
        InputError: there is no such row.
    """
    import pyarrow.parquet as pq

    if not split.is_file():
        raise StageInputError(f"{split}: missing, so the stage prepare has not finished; run `dvc repro` or `refit run`")
    table = pq.read_table(split, columns=["messages", "tools"])
    if not 0 <= row < table.num_rows:
        raise InputError(f"--row {row}: the train split has the rows 0 to {table.num_rows - 1}")
    return conversation(table.slice(row, 1).to_pylist()[0])


def marked(tokenizer: Any, messages: Sequence[Message], tools: Tools = (), last_only: bool = False) -> Iterator[tuple[str, bool]]:
    """A conversation as the model reads it, in pieces, each with whether the loss counts on it.

    Args:
        last_only: it counts on the last reply alone (train.completion_only_loss).

    Raises:
        BaseModelError, DataError: as `Encoder`; the template cannot be trained with.
    """
    (tokens,) = Encoder(tokenizer)([messages], [tools])
    labels = tokens["labels"].tolist()
    if last_only:
        start, _ = last_reply(labels)
        labels = [-100] * start + labels[start:]
    pairs = zip(tokens["input_ids"].tolist(), labels, strict=True)
    for supervised, run in groupby(pairs, key=lambda pair: pair[1] != -100):
        yield tokenizer.decode([token for token, _ in run]), supervised
