"""Rows -> verdicts: a row is accepted, or quarantined with the code of the first rule that it breaks.

A row is `{"id": str, "messages": [{"role": str, "content": str}, …]}`: an optional system message, then user and assistant in
turns, the last one an assistant; where there are guidelines, also a `topic` of their policy, unless the file lies below
`validate.replay`. A `group` names rows that must share a split. Other keys are left out. Duplicates are accepted here; `prepare`
drops them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from tasks import screening
from tasks.chat import Message, Tokens, Tools
from tasks.errors import ChatTemplateError
from tasks.formats import as_conversation
from tasks.guidelines import Policy, Rulebook
from tasks.normalisation import Identity, identify
from tasks.parallel import batched
from tasks.readers import RawLine
from tasks.row_rules import GUIDELINE_RULES, RULES_AFTER_MASKS, RULES_BEFORE_MASKS, RuleTable, parsed
from tasks.sections import Validate
from tasks.text_faults import count_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKEN_BATCH = 256

Messages = list[Message]
Encode = Callable[[Sequence[Messages], Sequence[Tools]], list[Tokens]]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that broke a rule; `raw` is its bytes as they stand in the file, or as JSON where the file is no JSON."""

    file: str
    line: int
    reason: str
    detail: str
    raw: bytes


@dataclass(slots=True)
class Accepted:
    """A row that broke none.

    Category and priority (those of the last reply) are empty without guidelines. `group` is a hash, since what people group by
    may be a person's address, and the splits may be published. `masked` names the kinds of find in it.
    Tokens and labels come last, and are empty without a tokenizer.
    """

    id: str
    source: str
    group: str
    replay: bool
    topic: str
    category: str
    priority: str
    must_say: tuple[str, ...]
    messages: Messages
    tools: Tools
    reply_words: int
    identity: Identity
    masked: tuple[str, ...] = ()
    input_ids: "Sequence[int] | NDArray[Any]" = ()
    labels: "Sequence[int] | NDArray[Any]" = ()


@dataclass(frozen=True)
class Rules:
    """What a row is judged by, besides its form."""

    section: Validate
    guidelines: tuple[Rulebook, Policy] | None
    control_tokens: tuple[str, ...]
    shows_tools: bool

    def __post_init__(self) -> None:
        """Refuse what the libraries do not know before the first row is read."""
        screening.check_screening(self.section)

    def of(self, file: str) -> "Rules":
        """The rules for the rows of a file: replayed ones are general, and need not follow the guidelines."""
        return self._of_replay if self.section.is_replay(file) else self

    @cached_property
    def _of_replay(self) -> "Rules":
        return replace(self, guidelines=None)

    @property
    def row_keys(self) -> dict[str, type]:
        """What a row must have, with its type."""
        return {"id": str, **({"topic": str} if self.guidelines else {}), "messages": list}

    @cached_property
    def after_masks(self) -> RuleTable:
        """The rules that see masked texts, those of the guidelines last."""
        if self.guidelines is None:
            return RULES_AFTER_MASKS
        return (*RULES_AFTER_MASKS, *((code, partial(rule, *self.guidelines)) for code, rule in GUIDELINE_RULES))

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Finds a control token; None if the tokenizer has none."""
        return re.compile("|".join(map(re.escape, self.control_tokens))) if self.control_tokens else None

    def judge(self, line: RawLine) -> Accepted | Quarantined:
        """Apply every rule but `chat_template` and `too_long`; an accepted row has no tokens yet."""
        try:
            text = line.data.decode()
        except UnicodeDecodeError as error:
            return Quarantined(line.file, line.line, "encoding", f"not UTF-8 at byte {error.start + 1} of the line", line.data)
        try:
            row = as_conversation(json.loads(text), self.section.columns)
        except (ValueError, RecursionError) as error:
            return Quarantined(line.file, line.line, "not_json", str(error), line.data)
        if broken := self._first_broken(row, RULES_BEFORE_MASKS):
            return Quarantined(line.file, line.line, *broken, line.data)
        row, masked = screening.mask_row(row, self.section)
        if broken := self._first_broken(row, self.after_masks):
            return Quarantined(line.file, line.line, *broken, line.data)
        return self._accept(row, masked, line)

    def _accept(self, row: Any, masked: tuple[str, ...], line: RawLine) -> Accepted:
        messages: Messages = [_known_keys(message) for message in row["messages"]]
        replies = [message["content"] for message in messages if message["role"] == "assistant" and message["content"].strip()]
        replay = self.section.is_replay(line.file)
        topic = row["topic"] if isinstance(row.get("topic"), str) and not replay else ""
        category = priority = ""
        must_say: tuple[str, ...] = ()
        if self.guidelines:
            rulebook, policy = self.guidelines
            must_say = policy.topics[topic].must_say
            parts = [parsed(reply, rulebook) for reply in replies]
            category, priority = parts[-1].category, parts[-1].priority
            replies = [part.body for part in parts]
        return Accepted(
            id=row["id"],
            source=f"{line.file}:{line.line}",
            group=hashlib.sha256(f"group:{row['group']}".encode()).hexdigest() if row.get("group") else "",
            replay=replay,
            topic=topic,
            category=category,
            priority=priority,
            must_say=must_say,
            messages=messages,
            tools=row.get("tools") or (),
            reply_words=max(map(count_words, replies), default=0),
            identity=identify(messages),
            masked=masked,
        )

    def _first_broken(self, row: Any, table: RuleTable) -> tuple[str, str] | None:
        for reason, rule in table:
            if detail := rule(row, self):
                return reason, detail
        return None


def judge_all(lines: Iterable[RawLine], rules: Rules, encode: Encode | None) -> Iterator[Accepted | Quarantined]:
    """One verdict for each line, in order; only rows that broke no other rule are tokenised, none without an encoder."""
    for batch in batched(lines, TOKEN_BATCH):
        verdicts = [rules.of(line.file).judge(line) for line in batch]
        if encode is None:
            yield from verdicts
            continue
        accepted = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
        tokens = iter(_encode_each(encode, accepted))
        for line, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, Quarantined):
                yield verdict
            elif isinstance(encoded := next(tokens), ChatTemplateError):
                yield Quarantined(line.file, line.line, "chat_template", str(encoded), line.data)
            elif (n_tokens := len(encoded["input_ids"])) > rules.section.max_length:
                detail = f"{n_tokens} tokens, wanted at most {rules.section.max_length} (validate.max_length)"
                yield Quarantined(line.file, line.line, "too_long", detail, line.data)
            else:
                verdict.input_ids, verdict.labels = encoded["input_ids"], encoded["labels"]
                yield verdict


def _encode_each(encode: Encode, rows: Sequence[Accepted]) -> list[Tokens | ChatTemplateError]:
    """The tokens of each row, or why it has none; all at once unless one of them has none."""
    try:
        return [*encode([row.messages for row in rows], [row.tools for row in rows])]
    except ChatTemplateError as error:
        return [error] if len(rows) == 1 else [tokens for row in rows for tokens in _encode_each(encode, [row])]


def _known_keys(message: dict[str, Any]) -> Message:
    kept: Message = {"role": message["role"], "content": message["content"]}
    if message.get("tool_calls"):
        kept["tool_calls"] = message["tool_calls"]
    if message["role"] == "tool":
        kept |= {key: str(message[key]) for key in ("tool_call_id", "name") if message.get(key) is not None}  # type: ignore[typeddict-item]
    return kept
