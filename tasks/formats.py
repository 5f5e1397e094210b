"""The shapes in which people keep conversations -> `messages`, a list of `{"role", "content"}`, as OpenAI and TRL have it.

What is not recognised stays as it is: the row rules then say what it lacks.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tasks.sections import RowKey
from tasks.tool_calls import as_call, as_tools, decoded, with_tool_calls

Row = dict[str, Any]

MESSAGE_KEYS = ("role", "content", "from", "value")
"""What a message has and a conversation has not."""
_CALL = "function_call"
# ShareGPT's and its relatives' names for who speaks; roles of OpenAI's own stay, and unknown ones are for the row rules.
_SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": _CALL,
    "observation": "tool",
    "function_response": "tool",
}
# (prompt, further input, reply) by column name: TRL's, Alpaca's, Dolly's and LongForm's, questions and answers.
_PAIRS = (
    ("prompt", (), "completion"),
    *(("instruction", ("input", "context"), reply) for reply in ("output", "response", "answer")),
    ("prompt", (), "response"),
    ("question", ("context",), "answer"),
    ("query", (), "response"),
    ("input", (), "output"),
    ("Q", (), "A"),
)
_SYSTEM = ("system", "system_prompt")


def as_conversation(row: Any, columns: Mapping[RowKey, str]) -> Any:
    """The row with `messages`, and with an `id`, made of their hash if it has none; anything else if it is no conversation.

    Args:
        row: A JSON value: a bare list of messages, or an object in one of the shapes of data/README.md.
        columns: The data's own column by the name that is wanted here.
    """
    if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
        row = {"messages": row}
    if not isinstance(row, dict):
        return row
    if columns:
        row = row | {wanted: row[theirs] for wanted, theirs in columns.items() if theirs in row}
    if row.get("tools") is not None:
        row = row | {"tools": as_tools(row["tools"])}
    if (messages := _messages(row)) is not None:
        row = row | {"messages": messages}
        identity = row.get("id")
        if identity is None:
            row["id"] = _hash(messages)
        elif isinstance(identity, int) and not isinstance(identity, bool):
            row["id"] = str(identity)
    return row


def split_instances(row: Any) -> list[Any]:
    """Alpaca's seeds have one instruction with `instances`, several inputs and outputs: a row each. Any other row stays one."""
    found = row.get("instances") if isinstance(row, dict) and "instruction" in row else None
    if not isinstance(found, list) or not found or not all(isinstance(instance, dict) for instance in found):
        return [row]
    rest = {key: value for key, value in row.items() if key != "instances"}
    if len(found) == 1 or not isinstance(rest.get("id"), str | int):
        return [rest | instance for instance in found]
    return [rest | instance | {"id": f"{rest['id']}-{number}"} for number, instance in enumerate(found, 1)]


def _messages(row: Row) -> Any:
    for key in ("messages", "conversations", "conversation"):
        if key in row:
            found = decoded(row[key])  # CSV keeps a list of messages as JSON text
            return _with_system(row, [_message(turn) for turn in found] if isinstance(found, list) else found)
    for prompt, more, reply in _PAIRS:
        if prompt in row and reply in row:
            turns = [*_turns(row[prompt], "user", [row.get(name) for name in more]), *_turns(row[reply], "assistant", [])]
            return _with_system(row, turns)
    return None


def _message(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    if {"from", "value"} <= turn.keys():
        turn = {"role": _role_of(turn["from"]), "content": turn["value"]}
        if turn["role"] == _CALL:
            turn = {"role": "assistant", "content": "", "tool_calls": as_call(turn["content"])}
    if turn.get("tool_calls") is not None:
        turn = with_tool_calls(turn)
    return turn | {"content": _joined(turn["content"])} if isinstance(turn.get("content"), list) else turn


def _role_of(speaker: Any) -> Any:
    return _SPEAKERS.get(speaker.lower(), speaker) if isinstance(speaker, str) else speaker


def _joined(parts: list[Any]) -> Any:
    """Text parts as one text; with an image or the like among them they stay a list, which a row rule refuses."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else parts  # type: ignore[arg-type]


def _turns(value: Any, role: str, more: list[Any]) -> list[Any]:
    if isinstance(value, list):
        return [_message(turn) for turn in value]
    texts = [text for text in more if isinstance(text, str) and text.strip()]
    return [{"role": role, "content": "\n\n".join([value, *texts]) if isinstance(value, str) else value}]


def _with_system(row: Row, messages: Any) -> Any:
    system = next((row[key] for key in _SYSTEM if isinstance(row.get(key), str) and row[key].strip()), None)
    if not system or not isinstance(messages, list) or (messages and _role(messages[0]) == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _hash(messages: Any) -> str:
    # Not sha256_json, which cannot take the lone surrogates that a row rule refuses later.
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
