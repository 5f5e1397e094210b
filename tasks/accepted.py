"""The columns of accepted.parquet: what is known of a row that broke no rule, tokens and labels included."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.chat import Message
from tasks.conversations import Accepted

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES = (
    "id",
    "source",
    "topic",
    "category",
    "priority",
    "roles",
    "last_role",
    "n_messages",
    "n_user_turns",
    "n_tokens",
    "reply_words",
)
"""The scalars of a row, on which expectations are stated."""


def schema() -> "pa.Schema":
    """Columns of accepted.parquet. None is ever null but what only messages with tools have; calls and tools are JSON text."""
    import pyarrow as pa

    text, number, tokens = pa.string(), pa.int64(), pa.list_(pa.int32())
    needed = [pa.field(name, text, nullable=False) for name in ("role", "content")]
    message = pa.struct([*needed, *(pa.field(name, text) for name in ("tool_calls", "tool_call_id", "name"))])
    kinds = {
        **dict.fromkeys(("id", "source", "group", "topic", "category", "priority", "roles", "last_role"), text),
        **dict.fromkeys(("n_messages", "n_user_turns", "n_tokens", "reply_words"), number),
        "replay": pa.bool_(),
        **dict.fromkeys(("prompt_hash", "content_hash", "text"), text),
        "must_say": pa.list_(text),
        "messages": pa.list_(message),
        "tools": text,
        **dict.fromkeys(("input_ids", "labels"), tokens),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def to_table(rows: Sequence[Accepted]) -> "pa.Table":
    """Rows as columns."""
    import pyarrow as pa

    roles = [[message["role"] for message in row.messages] for row in rows]
    derived: dict[str, list[Any]] = {
        "roles": ["|".join(names) for names in roles],
        "last_role": [names[-1] for names in roles],
        "n_messages": [len(names) for names in roles],
        "n_user_turns": [names.count("user") for names in roles],
        "n_tokens": [len(row.input_ids) for row in rows],
        "prompt_hash": [row.identity.prompt_hash for row in rows],
        "content_hash": [row.identity.content_hash for row in rows],
        "text": [row.identity.text for row in rows],
        "messages": [_stored(row.messages) for row in rows],
        "tools": [json.dumps(row.tools, ensure_ascii=False) if row.tools else "" for row in rows],
    }
    columns = [
        pa.array(derived[field.name] if field.name in derived else [getattr(row, field.name) for row in rows], field.type)
        for field in schema()
    ]
    return pa.Table.from_arrays(columns, schema=schema())


def _stored(messages: list[Message]) -> list[Any]:
    return [
        message | {"tool_calls": json.dumps(message["tool_calls"], ensure_ascii=False)} if "tool_calls" in message else message
        for message in messages
    ]


def features(path: Path) -> dict[str, Any]:
    """The columns FEATURES of the rows of an accepted.parquet that are not replayed, each as a sequence."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=list(FEATURES), filters=~pc.field("replay"))
    return {name: table[name].to_pandas() for name in FEATURES}
