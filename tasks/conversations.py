"""Rows -> verdicts: a row is accepted, or quarantined with the code of the first rule that it breaks.

A row is `{"id": str, "topic": str, "messages": [{"role": str, "content": str}, …]}`: an optional system message, then user and
assistant in turns, the last one an assistant. Other keys are left out. Duplicates are accepted here; `prepare` drops them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

from tasks import screening, text_faults
from tasks.chat import Message
from tasks.formats import as_conversation
from tasks.guidelines import Policy, Reply, Rulebook, missing_facts
from tasks.params import RowKey, Screening
from tasks.readers import RawLine

ROW_KEYS = ("id", "topic", "messages")
ROLES = ("system", "user", "assistant")
TOKEN_BATCH = 256

Messages = list[Message]
CountTokens = Callable[[Sequence[Messages]], list[int]]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that broke a rule. `raw` is the whole line; bytes that are not UTF-8 stand in it as hexadecimal escapes."""

    file: str
    line: int
    reason: str
    detail: str
    raw: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A row that broke none. Category and priority are those of the last reply; `masked` names the kinds of find in it."""

    id: str
    source: str
    topic: str
    category: str
    priority: str
    n_tokens: int
    must_say: tuple[str, ...]
    messages: Messages
    reply_words: int
    masked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What a row is judged by, besides its form."""

    rulebook: Rulebook
    policy: Policy
    control_tokens: tuple[str, ...]
    max_length: int
    screening: Screening
    columns: Mapping[RowKey, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the libraries do not know before the first row is read."""
        screening.check_screening(self.screening)

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Finds a control token; None if the tokenizer has none."""
        return re.compile("|".join(map(re.escape, self.control_tokens))) if self.control_tokens else None

    def judge(self, line: RawLine) -> Accepted | Quarantined:
        """Apply every rule but `too_long`; an accepted row has n_tokens 0."""
        try:
            text = line.data.decode()
        except UnicodeDecodeError as error:
            raw = line.data.decode(errors="backslashreplace")
            return Quarantined(line.file, line.line, "encoding", f"not UTF-8 at byte {error.start + 1} of the line", raw)
        try:
            row = as_conversation(json.loads(text), self.columns)
        except (ValueError, RecursionError) as error:
            return Quarantined(line.file, line.line, "not_json", str(error), text)
        if broken := self._first_broken(row, RULES_BEFORE_MASKS):
            return Quarantined(line.file, line.line, *broken, text)
        row["messages"], masked = screening.mask_messages(row["messages"], self.screening)
        if broken := self._first_broken(row, RULES_AFTER_MASKS):
            return Quarantined(line.file, line.line, *broken, text)
        messages: Messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
        replies = [_parsed(message["content"], self) for message in messages if message["role"] == "assistant"]
        return Accepted(
            id=row["id"],
            source=f"{line.file}:{line.line}",
            topic=row["topic"],
            category=replies[-1].category,
            priority=replies[-1].priority,
            n_tokens=0,
            must_say=self.policy.topics[row["topic"]].must_say,
            messages=messages,
            reply_words=max(len(reply.body.split()) for reply in replies),
            masked=masked,
        )

    def _first_broken(self, row: Any, table: "RuleTable") -> tuple[str, str] | None:
        return next(((reason, detail) for reason, rule in table if (detail := rule(row, self))), None)


def judge_all(lines: Iterable[RawLine], rules: Rules, count_tokens: CountTokens) -> Iterator[Accepted | Quarantined]:
    """One verdict for each line, in order; tokens are counted only of rows that broke no other rule."""
    stream = iter(lines)
    while batch := list(islice(stream, TOKEN_BATCH)):
        verdicts = [rules.judge(line) for line in batch]
        conversations = [verdict.messages for verdict in verdicts if isinstance(verdict, Accepted)]
        counts = iter(count_tokens(conversations) if conversations else [])
        for line, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, Quarantined):
                yield verdict
            elif (n_tokens := next(counts)) > rules.max_length:
                detail = f"{n_tokens} tokens, wanted at most {rules.max_length} (validate.max_length)"
                yield Quarantined(line.file, line.line, "too_long", detail, line.data.decode())
            else:
                yield replace(verdict, n_tokens=n_tokens)


Rule = Callable[[Any, Rules], str | None]
RuleTable = tuple[tuple[str, Rule], ...]


def _not_an_object(row: Any, rules: Rules) -> str | None:
    return None if isinstance(row, dict) else f"the line holds a {type(row).__name__}, wanted an object"


def _missing_key(row: Any, rules: Rules) -> str | None:
    missing = [key for key in ROW_KEYS if key not in row or row[key] == ""]
    return f"the row lacks {', '.join(missing)}" if missing else None


def _bad_type(row: Any, rules: Rules) -> str | None:
    for key, kind in zip(ROW_KEYS, (str, str, list), strict=True):
        if not isinstance(row[key], kind):
            return f"{key} is a {type(row[key]).__name__}, wanted a {kind.__name__}"
    for number, message in enumerate(row["messages"], start=1):
        if not isinstance(message, dict):
            return f"message {number} is a {type(message).__name__}, wanted an object"
    return None


def _missing_message_key(row: Any, rules: Rules) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if missing := [key for key in ("role", "content") if key not in message]:
            return f"message {number} lacks {', '.join(missing)}"
    return None


def _bad_message_type(row: Any, rules: Rules) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                return f"{key} of message {number} is a {type(message[key]).__name__}, wanted a str"
    return None


def _bad_role(row: Any, rules: Rules) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] not in ROLES:
            return f"message {number} has the role {message['role'][:40]!r}, wanted one of {', '.join(ROLES)}"
    return None


def _wrong_role_order(row: Any, rules: Rules) -> str | None:
    roles = [message["role"] for message in row["messages"]]
    start = int(roles[:1] == ["system"])
    for index, role in enumerate(roles[start:]):
        if role != (wanted := ROLES[1 + index % 2]):
            return f"message {start + index + 1} is of {role}, wanted {wanted}"
    return None


def _no_assistant(row: Any, rules: Rules) -> str | None:
    last = row["messages"][-1]["role"] if row["messages"] else "nobody"
    return None if last == "assistant" else f"the last message is of {last}, wanted assistant"


def _unknown_topic(row: Any, rules: Rules) -> str | None:
    return None if row["topic"] in rules.policy.topics else f"topic {row['topic'][:60]!r} is not in guidelines.policy"


def _format(row: Any, rules: Rules) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] == "assistant" and (fault := rules.rulebook.structure_fault(message["content"])):
            return f"message {number}: {fault}"
    return None


def _wrong_category(row: Any, rules: Rules) -> str | None:
    found, wanted = _parsed(row["messages"][-1]["content"], rules).category, rules.policy.topics[row["topic"]].category
    return None if found == wanted else f"category {found}, wanted {wanted} for topic {row['topic']}"


def _policy_contradiction(row: Any, rules: Rules) -> str | None:
    missing = missing_facts(_parsed(row["messages"][-1]["content"], rules).body, rules.policy.topics[row["topic"]].must_say)
    return f"the last reply does not say {', '.join(map(repr, missing))}" if missing else None


def _parsed(reply: str, rules: Rules) -> Reply:
    parts = rules.rulebook.parse(reply)
    assert parts is not None, "the rule `format` comes first"
    return parts


def _first_fault(row: Any, find: Callable[[str], str | None]) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if fault := find(message["content"]):
            return f"message {number} ({message['role']}): {fault}"
    return None


def _in_texts(find: Callable[[str], str | None]) -> Rule:
    """A rule that holds if `find` finds nothing in the content of any message."""
    return lambda row, rules: _first_fault(row, find)


def _screened(find: Callable[[Messages, Screening], str | None]) -> Rule:
    return lambda row, rules: find(row["messages"], rules.screening)


def _control_token(row: Any, rules: Rules) -> str | None:
    def find(text: str) -> str | None:
        found = rules.control_pattern.search(text) if rules.control_pattern else None
        return f"contains the tokenizer's {found[0]}" if found else None

    return _first_fault(row, find)


# In this order; each relies on those above it. A mask would look like a placeholder that nobody filled, and hide half a secret.
RULES_BEFORE_MASKS: RuleTable = (
    ("bad_type", _not_an_object),
    ("missing_key", _missing_key),
    ("bad_type", _bad_type),
    ("missing_key", _missing_message_key),
    ("bad_type", _bad_message_type),
    ("encoding", lambda row, rules: text_faults.encoding(row["id"])),
    ("bad_role", _bad_role),
    ("wrong_role_order", _wrong_role_order),
    ("no_assistant", _no_assistant),
    ("empty_turn", _in_texts(text_faults.empty)),
    ("encoding", _in_texts(text_faults.encoding)),
    ("control_token", _control_token),
    ("unfilled_template", _in_texts(text_faults.unfilled_template)),
    ("secret", _screened(screening.secret)),
)
RULES_AFTER_MASKS: RuleTable = (
    ("personal_data", _screened(screening.personal_data)),
    ("boilerplate", _screened(screening.boilerplate)),
    ("wrong_language", _screened(screening.wrong_language)),
    ("unknown_topic", _unknown_topic),
    ("format", _format),
    ("wrong_category", _wrong_category),
    ("policy_contradiction", _policy_contradiction),
)
RULES = RULES_BEFORE_MASKS + RULES_AFTER_MASKS
