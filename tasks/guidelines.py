"""The written guidelines as a check of one reply: the same code judges the data and a model's answers."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import DataError
from tasks.files import read_data_yaml
from tasks.sections import Guidelines
from tasks.text_faults import LETTER, count_words


class Topic(BaseModel):
    """One line of the policy: its ticket category and the words that a reply on it must contain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: str
    must_say: tuple[str, ...] = Field(min_length=1)
    policy: str


class Policy(BaseModel):
    """The policy file: topics by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: dict[str, Topic]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply taken apart."""

    category: str
    priority: str
    body: str


def load_policy(path: Path) -> Policy:
    """Read the policy file.

    Raises:
        DataError: the file is missing or has faults; each is named.
    """
    tree = read_data_yaml(path, "guidelines.policy")
    try:
        return Policy.model_validate(tree)
    except ValidationError as error:
        faults = "\n".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise DataError(f"{path}: wanted topics of {{category, must_say, policy}}\n{faults}") from None


@dataclass(frozen=True)
class Rulebook:
    """`guidelines` of params.yaml, ready to judge."""

    section: Guidelines

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.section.reply_pattern)

    def parse(self, reply: str) -> Reply | None:
        """The parts of a reply, None if it has not the demanded structure."""
        match = self._pattern.fullmatch(reply.strip())
        return Reply(match["category"], match["priority"], match["body"]) if match else None

    def structure_fault(self, reply: str) -> str | None:
        """What is wrong with the form of a reply in a few words, None if nothing is."""
        parts = self.parse(reply)
        if parts is None:
            return "the reply does not match guidelines.reply_pattern"
        if (words := count_words(parts.body)) > self.section.max_words:
            return f"{words} words, wanted at most {self.section.max_words}"
        for text in self.section.forbidden:
            if text in parts.body:
                return f"contains {text!r}"
        return None


def missing_facts(reply: str, must_say: tuple[str, ...] | list[str]) -> list[str]:
    """Those of `must_say` that the reply lacks; case and the width of blanks do not count, a figure must stand alone.

    "5 days" is not found in "15 days".
    """
    text = " ".join(reply.lower().split())
    return [fact for fact in must_say if not re.search(rf"(?<!{LETTER})(?<![.,]){re.escape(fact.lower())}(?!{LETTER})", text)]
