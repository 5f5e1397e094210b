"""What one row may break, each rule with its code. A rule says in a few words what is wrong, or None."""

import json
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from tasks import screening, text_faults
from tasks.chat import Message, said
from tasks.guidelines import Policy, Reply, Rulebook, missing_facts
from tasks.sections import Screening
from tasks.tool_calls import tool_fault

if TYPE_CHECKING:
    from tasks.conversations import Rules

ROLES = ("system", "user", "assistant", "tool")
# Who may speak after whom; "" is the beginning, "call" an assistant who called tools.
_NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
_SHOWN_KEYS, _SHOWN = 8, 40  # of the keys of a row that is in no known shape, and of their characters

Rule = Callable[[Any, "Rules"], str | None]
RuleTable = tuple[tuple[str, Rule], ...]


def _not_an_object(row: Any, rules: "Rules") -> str | None:
    return None if isinstance(row, dict) else f"the line holds a {type(row).__name__}, wanted an object"


def _missing_key(row: Any, rules: "Rules") -> str | None:
    missing = [key for key in rules.row_keys if key not in row or row[key] == ""]
    if "messages" in missing:
        found = ", ".join(repr(screening.shown(key)[:_SHOWN]) for key in islice(row, _SHOWN_KEYS)) or "nothing"
        advice = f"; it has {found}, and validate.columns tells which of them hold what"
    else:
        advice = "; guidelines need it, `guidelines: null` is for data without" if "topic" in missing else ""
    return f"the row lacks {', '.join(missing)}{advice}" if missing else None


def _bad_type(row: Any, rules: "Rules") -> str | None:
    for key, kind in rules.row_keys.items():
        if not isinstance(row[key], kind):
            return f"{key} is a {type(row[key]).__name__}, wanted a {kind.__name__}"
    for number, message in enumerate(row["messages"], start=1):
        if not isinstance(message, dict):
            return f"message {number} is a {type(message).__name__}, wanted an object"
    return None


def _missing_message_key(row: Any, rules: "Rules") -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if missing := [key for key in ("role", "content") if key not in message]:
            return f"message {number} lacks {', '.join(missing)}"
    return None


def _bad_message_type(row: Any, rules: "Rules") -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                return f"{key} of message {number} is a {type(message[key]).__name__}, wanted a str"
    return None


def _bad_role(row: Any, rules: "Rules") -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] not in ROLES:
            return f"message {number} has the role {message['role'][:40]!r}, wanted one of {', '.join(ROLES)}"
    return None


def _wrong_role_order(row: Any, rules: "Rules") -> str | None:
    before = ""
    for number, message in enumerate(row["messages"], start=1):
        if (role := message["role"]) not in (wanted := _NEXT[before]):
            return f"message {number} is of {role}, wanted {wanted[-1]}"
        before = "call" if message.get("tool_calls") else role
    return None


def _tool_call(row: Any, rules: "Rules") -> str | None:
    messages, tools = row["messages"], row.get("tools")
    if not tools and not any(message["role"] == "tool" or "tool_calls" in message for message in messages):
        return None
    if fault := tool_fault(messages, tools):
        return fault
    return None if rules.shows_tools else "has tools, which the base model's chat template does not show"


def _empty_turn(row: Any, rules: "Rules") -> str | None:
    """A call needs no text, and a tool may well return nothing."""
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] != "tool" and not message.get("tool_calls") and (fault := text_faults.empty(message["content"])):
            return f"message {number} ({message['role']}): {fault}"
    return None


def _no_assistant(row: Any, rules: "Rules") -> str | None:
    last = row["messages"][-1]["role"] if row["messages"] else "nobody"
    return None if last == "assistant" else f"the last message is of {last}, wanted assistant"


def _unknown_topic(rulebook: Rulebook, policy: Policy, row: Any, rules: "Rules") -> str | None:
    return None if row["topic"] in policy.topics else f"topic {row['topic'][:60]!r} is not in guidelines.policy"


def _format(rulebook: Rulebook, policy: Policy, row: Any, rules: "Rules") -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] != "assistant" or _only_calls(message):
            continue
        if fault := rulebook.structure_fault(message["content"]):
            return f"message {number}: {fault}"
    return "the last message only calls tools, wanted a reply" if _only_calls(row["messages"][-1]) else None


def _only_calls(message: Message) -> bool:
    return bool(message.get("tool_calls")) and not message["content"].strip()


def _wrong_category(rulebook: Rulebook, policy: Policy, row: Any, rules: "Rules") -> str | None:
    found, wanted = parsed(row["messages"][-1]["content"], rulebook).category, policy.topics[row["topic"]].category
    return None if found == wanted else f"category {found}, wanted {wanted} for topic {row['topic']}"


def _policy_contradiction(rulebook: Rulebook, policy: Policy, row: Any, rules: "Rules") -> str | None:
    missing = missing_facts(parsed(row["messages"][-1]["content"], rulebook).body, policy.topics[row["topic"]].must_say)
    return f"the last reply does not say {', '.join(map(repr, missing))}" if missing else None


def parsed(reply: str, rulebook: Rulebook) -> Reply:
    parts = rulebook.parse(reply)
    assert parts is not None, "the rule `format` comes first"
    return parts


def _first_fault(row: Any, find: Callable[[str], str | None]) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if fault := find(said(message)):
            return f"message {number} ({message['role']}): {fault}"
    return None


def _in_texts(find: Callable[[str], str | None]) -> Rule:
    """A rule that holds if `find` finds nothing in the content of any message."""
    return lambda row, rules: _first_fault(row, find)


def _screened(find: Callable[[Any, Screening], str | None]) -> Rule:
    return lambda row, rules: find(row, rules.section)


def _control_token(row: Any, rules: "Rules") -> str | None:
    """Also in what a template writes beside the messages' texts: the tools, and who answers which call."""

    def find(text: str) -> str | None:
        found = rules.control_pattern.search(text) if rules.control_pattern else None
        return f"contains the tokenizer's {found[0]}" if found else None

    def find_beside(value: Any) -> str | None:
        return find(json.dumps(value, ensure_ascii=False)) if value else None

    if fault := _first_fault(row, find):
        return fault
    if fault := find_beside(row.get("tools")):
        return f"tools: {fault}"
    for number, message in enumerate(row["messages"], 1):
        for key in ("tool_call_id", "name"):
            if key in message and (fault := find_beside(message[key])):
                return f"message {number}: {fault}"
    return None


# In this order; each relies on those above it. A mask would look like a placeholder that nobody filled, and hide half a secret.
RULES_BEFORE_MASKS: RuleTable = (
    ("bad_type", _not_an_object),
    ("missing_key", _missing_key),
    ("bad_type", _bad_type),
    ("missing_key", _missing_message_key),
    ("bad_type", _bad_message_type),
    ("encoding", lambda row, rules: text_faults.encoding(row["id"])),
    ("bad_role", _bad_role),
    ("tool_call", _tool_call),
    ("wrong_role_order", _wrong_role_order),
    ("no_assistant", _no_assistant),
    ("empty_turn", _empty_turn),
    ("encoding", _in_texts(text_faults.encoding)),
    ("control_token", _control_token),
    ("unfilled_template", _in_texts(text_faults.unfilled_template)),
    ("secret", _screened(screening.secret)),
)
RULES_AFTER_MASKS: RuleTable = (
    ("personal_data", _screened(screening.personal_data)),
    ("boilerplate", _screened(screening.boilerplate)),
    ("wrong_language", _screened(screening.wrong_language)),
)
# After those, where there are guidelines.
GUIDELINE_RULES: tuple[tuple[str, Callable[[Rulebook, Policy, Any, "Rules"], str | None]], ...] = (
    ("unknown_topic", _unknown_topic),
    ("format", _format),
    ("wrong_category", _wrong_category),
    ("policy_contradiction", _policy_contradiction),
)
RULES = RULES_BEFORE_MASKS + RULES_AFTER_MASKS
