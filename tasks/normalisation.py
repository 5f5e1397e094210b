"""What counts as the same text: the hashes by which rows are recognised, whatever their case, punctuation or blanks."""

import unicodedata
from collections.abc import Sequence

from tasks.chat import Message
from tasks.files import sha256_json


def normalise(text: str) -> str:
    """Text without what does not make a difference: case, punctuation, blanks, compatibility forms (Unicode NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_BLANKS).split())


def hash_messages(messages: Sequence[Message]) -> str:
    """sha256 of roles and normalised contents."""
    return sha256_json([[message["role"], normalise(message["content"])] for message in messages])


class _Blanks(dict[int, str]):
    """For str.translate: a blank for all but letters, digits, `_`, and the marks that are vowels in Indic and other scripts."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        keeps = character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
        self[code] = character if keeps else " "
        return self[code]


_BLANKS = _Blanks()
