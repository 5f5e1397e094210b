"""The dataset card: README.md of the prepared splits, as the Hugging Face Hub has them. Pure: facts in, Markdown out."""

import yaml

from tasks.markdown import code, table
from tasks.records import SplitStatistics
from tasks.sections import Prepare

_COLUMNS = {
    "messages": "role and content of each message, and what belongs to calls of tools (tool_calls as JSON text)",
    "tools": "the tools that the conversation offers, as JSON text; mostly empty",
    "input_ids, labels": "the conversation as tokens of the base model; labels are -100 where the loss does not count",
    "id, source": "the row's own id; its file and line",
    "topic, category, priority, must_say": "what the guidelines say of the last reply; empty without guidelines",
    "replay": "whether it is a general conversation, to train on against forgetting",
    "group, cluster": "what rows of one split have in common",
    "prompt_hash, content_hash": "what rows are compared by: hashes of the normalised messages",
    "roles, last_role, n_messages, n_user_turns, n_tokens, reply_words": "what expectations are stated on",
}


def dataset_card(
    section: Prepare,
    accepted_sha256: str,
    n_accepted: int,
    splits: dict[str, SplitStatistics],
    dropped: dict[str, int],
    n_conflicts: int,
    n_replayed: int,
) -> str:
    """The card, with the metadata by which `datasets.load_dataset` finds the splits; eval is called `validation` there."""
    files = [{"split": {"eval": "validation"}.get(name, name), "path": f"{name}.parquet"} for name in splits]
    metadata = {"configs": [{"config_name": "default", "data_files": files}], "tags": ["refit", "sft"]}
    head = ("split", "rows", "messages", "tokens", "supervised tokens", "share supervised", "longest row")
    rows = [
        (
            name,
            split.rows,
            split.messages,
            split.tokens,
            split.supervised_tokens,
            f"{split.supervised_tokens / split.tokens:.0%}",
            split.max_tokens,
        )
        for name, split in splits.items()
    ]
    replayed = f" Of the train split {n_replayed} rows are replayed general conversations." if n_replayed else ""
    return (
        "\n\n".join(
            (
                f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
                "# Prepared conversations",
                f"Made by Refit from {n_accepted} accepted rows with the sha256 {code(accepted_sha256)}: "
                f"{sum(dropped.values())} were dropped, the others are in the splits.{replayed}",
                table(head, rows),
                "A salted hash of its cluster decides a row's split, so that growth moves no row; `test` is never trained on. "
                f"{n_conflicts} prompts have more than one reply (`conflicts.jsonl`).",
                table(("dropped for", "rows"), dropped.items()),
                "`dropped.jsonl` names each dropped row, what it repeats, and how much of it.",
                table(("parameter", "value"), section.model_dump().items()),
                table(("columns", "meaning"), _COLUMNS.items()),
            )
        )
        + "\n"
    )
