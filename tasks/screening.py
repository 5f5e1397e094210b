"""The row rules that params.yaml switches: secrets, personal data, boiler-plate replies, language; and the masks.

Each rule says in a few words what is wrong with a row, or None.
"""

import json
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

from tasks import text_faults
from tasks.chat import Message, said
from tasks.language import check_language, other_language
from tasks.sections import Screening
from tasks.sensitive import NAMES, Find, Kind, check_regions, find_email, find_personal_data, find_secret, mask

_PARTS = ("messages", "tools", "id")


class _Finder(NamedTuple):
    """What is looked for in texts, and in ids, many of which are numbers that may look like one of a phone or card."""

    in_text: Find
    in_id: Find


_SECRET = _Finder(find_secret, find_secret)


def check_screening(section: Screening) -> None:
    """Refuse values that only the libraries know to be wrong.

    Raises:
        ParamsError: an unknown country or language.
    """
    check_regions(section.phone_regions)
    if section.language is not None:
        check_language(section.language)


def mask_row(row: dict[str, Any], section: Screening) -> tuple[dict[str, Any], tuple[Kind, ...]]:
    """The row with what is to be masked replaced in messages, tools and id, and the kinds of it in alphabetical order."""
    if not (finders := _finders_to_mask(section)):
        return row, ()
    kinds: set[Kind] = set()
    row = dict(row)
    for find in finders:
        for part in _PARTS:
            row[part], found = _masked(row.get(part), find.in_id if part == "id" else find.in_text)
            kinds |= found
    return row, tuple(sorted(kinds))


def shown(text: str) -> str:
    """What may be shown of a text, whatever the parameters allow in the data."""
    return mask(mask(text, find_secret)[0], partial(find_personal_data, regions=()))[0]


def secret(row: Mapping[str, Any], section: Screening) -> str | None:
    return _first_find(row, _SECRET) if section.secrets == "quarantine" else None


def personal_data(row: Mapping[str, Any], section: Screening) -> str | None:
    return _first_find(row, _personal(section.phone_regions)) if section.personal_data == "quarantine" else None


def boilerplate(row: Mapping[str, Any], section: Screening) -> str | None:
    for number, message in enumerate(row["messages"], start=1):
        if message["role"] == "assistant" and (found := text_faults.phrase(message["content"], section.boilerplate)):
            return f"message {number} (assistant): contains {found!r} (validate.boilerplate)"
    return None


def wrong_language(row: Mapping[str, Any], section: Screening) -> str | None:
    """Of all messages together but the system's, which is often English whatever is spoken after it."""
    if section.language is None:
        return None
    text = "\n".join(message["content"] for message in row["messages"] if message["role"] != "system")
    found = other_language(text, section.language)
    return f"the text is of language {found}, wanted {section.language} (validate.language)" if found else None


def _first_find(row: Mapping[str, Any], find: _Finder) -> str | None:
    """Names the kind only: the find must not travel on. Most rows have none, which one look at all texts tells."""
    messages: list[Message] = row["messages"]
    texts = [*map(said, messages), *([json.dumps(row["tools"], ensure_ascii=False)] if row.get("tools") else [])]
    looked_at = [*texts, row["id"]] if find.in_id is find.in_text else texts
    if find.in_text("\n".join(looked_at)) is not None:
        places = [*(f"message {number} ({message['role']})" for number, message in enumerate(messages, start=1)), "tools"]
        for place, text in zip(places, texts, strict=False):
            if found := find.in_text(text):
                return f"{place}: {NAMES[found.kind]}"
    elif looked_at is not texts:
        return None
    return f"id: {NAMES[found.kind]}" if (found := find.in_id(row["id"])) else None


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


@cache
def _personal(regions: tuple[str, ...]) -> _Finder:
    return _Finder(partial(find_personal_data, regions=regions), find_email)


def _finders_to_mask(section: Screening) -> list[_Finder]:
    """Secrets first: the end of a URL's password looks like the beginning of an e-mail address."""
    handled = ((_SECRET, section.secrets), (_personal(section.phone_regions), section.personal_data))
    return [finder for finder, handling in handled if handling == "mask"]
