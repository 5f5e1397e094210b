"""What counts as the same text: the hashes by which rows are recognised, whatever their case, punctuation or blanks."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from json.encoder import encode_basestring

from tasks.chat import Message, said


def normalise(text: str) -> str:
    """Text without what does not make a difference: case, punctuation, blanks, compatibility forms (Unicode NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_BLANKS).split())


@dataclass(frozen=True, slots=True)
class Identity:
    """By what a conversation is recognised.

    `prompt_hash` is that of all messages before the last one, `content_hash` that of all; `text` is what user and assistant say,
    normalised: a system message, which all rows may share, tells nothing of one of them.
    """

    prompt_hash: str
    content_hash: str
    text: str


def identify(messages: Sequence[Message]) -> Identity:
    """The identity of a conversation; each message is normalised, written as JSON and hashed once."""
    turns = [(message["role"], normalise(said(message))) for message in messages]
    text = " ".join(content for role, content in turns if role != "system")
    *before, last = (f"[{encode_basestring(role)},{encode_basestring(content)}]" for role, content in turns)
    prompt = sha256(f"[{','.join(before)}".encode())
    whole = prompt.copy()
    prompt.update(b"]")
    whole.update(f"{',' * bool(before)}{last}]".encode())
    return Identity(prompt.hexdigest(), whole.hexdigest(), text)


class _Blanks(dict[int, str]):
    """For str.translate: a blank for all but letters, digits, `_`, and the marks that are vowels in Indic and other scripts."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        keeps = character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
        self[code] = character if keeps else " "
        return self[code]


_BLANKS = _Blanks()
