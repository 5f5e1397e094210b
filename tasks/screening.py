"""The row rules that params.yaml switches: secrets, personal data, boiler-plate replies, language; and the masks.

Each rule says in a few words what is wrong with the messages of a row, or None.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from tasks import text_faults
from tasks.chat import Message, said
from tasks.language import check_language, other_language
from tasks.sections import Screening
from tasks.sensitive import NAMES, Find, Kind, check_regions, find_personal_data, find_secret, mask


def check_screening(section: Screening) -> None:
    """Refuse values that only the libraries know to be wrong.

    Raises:
        ParamsError: an unknown country or language.
    """
    check_regions(section.phone_regions)
    if section.language is not None:
        check_language(section.language)


def mask_messages(messages: list[Message], section: Screening) -> tuple[list[Message], tuple[Kind, ...]]:
    """The messages with what is to be masked replaced, and the kinds of it in alphabetical order."""
    kinds: set[Kind] = set()
    masked = list(messages)
    for find in _finds_to_mask(section):
        for index, message in enumerate(masked):
            masked[index], found = _masked(message, find)
            kinds |= found
    return masked, tuple(sorted(kinds))


def secret(messages: Sequence[Message], section: Screening) -> str | None:
    return _first_find(messages, find_secret) if section.secrets == "quarantine" else None


def personal_data(messages: Sequence[Message], section: Screening) -> str | None:
    if section.personal_data != "quarantine":
        return None
    return _first_find(messages, partial(find_personal_data, regions=section.phone_regions))


def boilerplate(messages: Sequence[Message], section: Screening) -> str | None:
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and (found := text_faults.phrase(message["content"], section.boilerplate)):
            return f"message {number} (assistant): contains {found!r} (validate.boilerplate)"
    return None


def wrong_language(messages: Sequence[Message], section: Screening) -> str | None:
    """Of all messages together but the system's, which is often English whatever is spoken after it."""
    if section.language is None:
        return None
    text = "\n".join(message["content"] for message in messages if message["role"] != "system")
    found = other_language(text, section.language)
    return f"the text is of language {found}, wanted {section.language} (validate.language)" if found else None


def _first_find(messages: Sequence[Message], find: Find) -> str | None:
    """Names the kind only: the find must not travel on. Most rows have none, which one look at all messages tells."""
    if find("\n".join(map(said, messages))) is None:
        return None
    for number, message in enumerate(messages, start=1):
        if found := find(said(message)):
            return f"message {number} ({message['role']}): {NAMES[found.kind]}"
    return None


def _masked(value: Any, find: Find) -> tuple[Any, set[Kind]]:
    """A message or a part of it with every text in it masked, those of calls of tools too."""
    if isinstance(value, str):
        return mask(value, find)
    kinds: set[Kind] = set()
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        masked = {key: _masked(part, find) for key, part in parts}
        kinds = {kind for _, found in masked.values() for kind in found}
        whole = {key: part for key, (part, _) in masked.items()}
        value = whole if isinstance(value, dict) else list(whole.values())
    return value, kinds


def _finds_to_mask(section: Screening) -> list[Find]:
    """Secrets first: the end of a URL's password looks like the beginning of an e-mail address."""
    personal = partial(find_personal_data, regions=section.phone_regions)
    return [find for find, handling in ((find_secret, section.secrets), (personal, section.personal_data)) if handling == "mask"]
