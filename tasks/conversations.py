"""Rows -> verdicts: a row is accepted, or quarantined with the code of the first rule that it breaks.

A row is `{"id": str, "messages": [{"role": str, "content": str}, …]}`: an optional system message, then user and assistant in
turns, the last one an assistant; where there are guidelines, also a `topic` of their policy. A `group` names rows that must share
a split. Other keys are left out. Duplicates are accepted here; `prepare` drops them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

from tasks import screening, text_faults
from tasks.chat import Message, Tokens
from tasks.formats import as_conversation
from tasks.guidelines import Policy, Reply, Rulebook, missing_facts
from tasks.normalisation import Identity, identify
from tasks.params import RowKey, Screening
from tasks.readers import RawLine

ROLES = ("system", "user", "assistant")
TOKEN_BATCH = 256

Messages = list[Message]
Encode = Callable[[Sequence[Messages]], list[Tokens]]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that broke a rule; `raw` is its bytes as they stand in the file, or as JSON where the file is no JSON."""

    file: str
    line: int
    reason: str
    detail: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A row that broke none.

    Topic, category and priority (those of the last reply) are empty without guidelines. `masked` names the kinds of find in it.
    Tokens and labels are empty without a tokenizer.
    """

    id: str
    source: str
    group: str
    topic: str
    category: str
    priority: str
    must_say: tuple[str, ...]
    messages: Messages
    reply_words: int
    identity: Identity
    masked: tuple[str, ...] = ()
    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """What a row is judged by, besides its form."""

    guidelines: tuple[Rulebook, Policy] | None
    control_tokens: tuple[str, ...]
    max_length: int
    screening: Screening
    columns: Mapping[RowKey, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the libraries do not know before the first row is read."""
        screening.check_screening(self.screening)

    @property
    def row_keys(self) -> dict[str, type]:
        """What a row must have, with its type."""
        return {"id": str, **({"topic": str} if self.guidelines else {}), "messages": list}

    @cached_property
    def after_masks(self) -> "RuleTable":
        """The rules that see masked texts, those of the guidelines last."""
        if self.guidelines is None:
            return RULES_AFTER_MASKS
        return (*RULES_AFTER_MASKS, *((code, partial(rule, *self.guidelines)) for code, rule in GUIDELINE_RULES))

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Finds a control token; None if the tokenizer has none."""
        return re.compile("|".join(map(re.escape, self.control_tokens))) if self.control_tokens else None

    def judge(self, line: RawLine) -> Accepted | Quarantined:
        """Apply every rule but `too_long`; an accepted row has no tokens yet."""
        try:
            text = line.data.decode()
        except UnicodeDecodeError as error:
            return Quarantined(line.file, line.line, "encoding", f"not UTF-8 at byte {error.start + 1} of the line", line.data)
        try:
            row = as_conversation(json.loads(text), self.columns)
        except (ValueError, RecursionError) as error:
            return Quarantined(line.file, line.line, "not_json", str(error), line.data)
        if broken := self._first_broken(row, RULES_BEFORE_MASKS):
            return Quarantined(line.file, line.line, *broken, line.data)
        row["messages"], masked = screening.mask_messages(row["messages"], self.screening)
        if broken := self._first_broken(row, self.after_masks):
            return Quarantined(line.file, line.line, *broken, line.data)
        return self._accept(row, masked, line)

    def _accept(self, row: Any, masked: tuple[str, ...], line: RawLine) -> Accepted:
        messages: Messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        topic = category = priority = ""
        must_say: tuple[str, ...] = ()
        if self.guidelines:
            rulebook, policy = self.guidelines
            topic, must_say = row["topic"], policy.topics[row["topic"]].must_say
            parts = [_parsed(reply, rulebook) for reply in replies]
            category, priority = parts[-1].category, parts[-1].priority
            replies = [part.body for part in parts]
        return Accepted(
            id=row["id"],
            source=f"{line.file}:{line.line}",
            group=str(row.get("group") or ""),
            topic=topic,
            category=category,
            priority=priority,
            must_say=must_say,
            messages=messages,
            reply_words=max(len(reply.split()) for reply in replies),
            identity=identify(messages),
            masked=masked,
        )

    def _first_broken(self, row: Any, table: "RuleTable") -> tuple[str, str] | None:
        return next(((reason, detail) for reason, rule in table if (detail := rule(row, self))), None)


def judge_all(lines: Iterable[RawLine], rules: Rules, encode: Encode | None) -> Iterator[Accepted | Quarantined]:
    """One verdict for each line, in order; only rows that broke no other rule are tokenised, none without an encoder."""
    stream = iter(lines)
    while batch := list(islice(stream, TOKEN_BATCH)):
        verdicts = [rules.judge(line) for line in batch]
        if encode is None:
            yield from verdicts
            continue
        tokens = iter(encode([verdict.messages for verdict in verdicts if isinstance(verdict, Accepted)]))
        for line, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, Quarantined):
                yield verdict
            elif (n_tokens := len((encoded := next(tokens))["input_ids"])) > rules.max_length:
                detail = f"{n_tokens} tokens, wanted at most {rules.max_length} (validate.max_length)"
                yield Quarantined(line.file, line.line, "too_long", detail, line.data)
            else:
                yield replace(verdict, **encoded)


Rule = Callable[[Any, Rules], str | None]
RuleTable = tuple[tuple[str, Rule], ...]


def _not_an_object(row: Any, rules: Rules) -> str | None:
    return None if isinstance(row, dict) else f"the line holds a {type(row).__name__}, wanted an object"


def _missing_key(row: Any, rules: Rules) -> str | None:
    missing = [key for key in rules.row_keys if key not in row or row[key] == ""]
    return f"the row lacks {', '.join(missing)}" if missing else None


def _bad_type(row: Any, rules: Rules) -> str | None:
    for key, kind in rules.row_keys.items():
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


def _unknown_topic(rulebook: Rulebook, policy: Policy, row: Any, rules: Rules) -> str | None:
    return None if row["topic"] in policy.topics else f"topic {row['topic'][:60]!r} is not in guidelines.policy"


def _format(rulebook: Rulebook, policy: Policy, row: Any, rules: Rules) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] == "assistant" and (fault := rulebook.structure_fault(message["content"])):
            return f"message {number}: {fault}"
    return None


def _wrong_category(rulebook: Rulebook, policy: Policy, row: Any, rules: Rules) -> str | None:
    found, wanted = _parsed(row["messages"][-1]["content"], rulebook).category, policy.topics[row["topic"]].category
    return None if found == wanted else f"category {found}, wanted {wanted} for topic {row['topic']}"


def _policy_contradiction(rulebook: Rulebook, policy: Policy, row: Any, rules: Rules) -> str | None:
    missing = missing_facts(_parsed(row["messages"][-1]["content"], rulebook).body, policy.topics[row["topic"]].must_say)
    return f"the last reply does not say {', '.join(map(repr, missing))}" if missing else None


def _parsed(reply: str, rulebook: Rulebook) -> Reply:
    parts = rulebook.parse(reply)
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
)
# After those, where there are guidelines.
GUIDELINE_RULES: tuple[tuple[str, Callable[[Rulebook, Policy, Any, Rules], str | None]], ...] = (
    ("unknown_topic", _unknown_topic),
    ("format", _format),
    ("wrong_category", _wrong_category),
    ("policy_contradiction", _policy_contradiction),
)
RULES = RULES_BEFORE_MASKS + RULES_AFTER_MASKS
