"""Calls of tools in a conversation: one form for those that people have, and what may be wrong with them.

The form is OpenAI's, as chat templates of transformers take it: an assistant message has `tool_calls`, each `{"type": "function",
"function": {"name", "arguments": {…}}}` with an `id` if it had one, and a message of the role `tool` follows for each of them.
"""

import json
from collections.abc import Sequence
from typing import Any

from tasks.chat import Message

Row = dict[str, Any]


def with_tool_calls(message: Row) -> Row:
    """The message with its calls in that form, and with a text: OpenAI leaves it null where there are calls."""
    calls = message["tool_calls"]
    if isinstance(calls, list):
        calls = [_call(call) for call in calls]
    return message | {"tool_calls": calls, "content": message["content"] if message.get("content") is not None else ""}


def as_call(text: Any) -> Any:
    """What a message of ShareGPT's relatives says as `function_call`: `{"name", "arguments"}` as JSON text."""
    found = decoded(text)
    return [_call({"function": call}) for call in (found if isinstance(found, list) else [found])]


def as_tools(value: Any) -> Any:
    """The tools that a row offers, also from JSON text and without the wrapping of `function`."""
    tools = decoded(value)
    if not isinstance(tools, list):
        return tools
    return [{"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool else tool for tool in tools]


def decoded(value: Any) -> Any:
    """The value of JSON text; anything else as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def tool_fault(messages: Sequence[Message], tools: Any) -> str | None:
    """What is wrong with the calls, their results or the tools offered, in words; None also if there are none."""
    if tools is not None and not (isinstance(tools, list) and all(_name(tool) for tool in tools)):
        return "tools is not a list of {type: function, function: {name, …}}"
    known = {_name(tool) for tool in tools or ()}
    for number, message in enumerate(messages, start=1):
        calls = message.get("tool_calls")
        if calls is None:
            continue
        if message["role"] != "assistant":
            return f"message {number} ({message['role']}): has tool_calls, which only the assistant may have"
        if not isinstance(calls, list) or not calls or not all(_is_call(call) for call in calls):
            return f"message {number}: tool_calls is not a list of {{function: {{name, arguments: an object}}}}"
        if known and (unknown := [name for call in calls if (name := _name(call)) not in known]):
            return f"message {number}: calls {unknown[0][:60]!r}, which is not among the row's tools"
        results = _results(messages[number:])
        if results != len(calls) and number < len(messages):
            return f"message {number}: {results} tool results follow its {len(calls)} calls"
    return None


def _results(messages: Sequence[Message]) -> int:
    """Messages of tools at the beginning."""
    return next((count for count, message in enumerate(messages) if message["role"] != "tool"), len(messages))


def _call(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = call["function"]
    if "arguments" in function:
        function = function | {"arguments": decoded(function["arguments"])}
    return {"type": "function", **({"id": call["id"]} if call.get("id") else {}), "function": function}


def _name(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _is_call(call: Any) -> bool:
    return bool(_name(call)) and isinstance(call["function"].get("arguments"), dict)
