"""Faults in one text, whatever its role: each function says in a few words what is wrong, or None."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

# A letter or digit of a script with blanks between its words, so not of Korean, Japanese or Chinese.
LETTER = r"[^\W\u1100-\u11ff\u2e80-\uffdc]"
# Thai, Lao, Japanese and Chinese write no blanks between words: there each character counts as one.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

_BLANK = {"Zs", "Zl", "Zp", "Cc", "Cf"}
_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")
# UTF-8 read as cp1252: a lead byte and its continuation as that code page shows them. Closing punctuation counts as one only
# inside a word, since a word in capitals may well end on Ã before it.
_CONTINUED = "\xa0-\xba\xbc-\xbf€‚ƒ„†‡ˆ‰Š‹ŒŽ‘“•˜™š›œžŸ"
_MOJIBAKE = re.compile(rf"[ÂÃ](?:[{_CONTINUED}]|[”’»…–—](?=[a-z]))|â[€‚„†]|ðŸ|(?:[ÐÑ][{_CONTINUED}]){{2}}")
_OPENING = re.compile(r"[{<\[]")  # the cheap test before the next one, whose alternatives all have one of these
_UNFILLED = re.compile(
    r"\{\{[^{}\n]*\}\}|\$?\{[A-Za-z_][\w. -]{0,40}\}|<[A-Z][A-Z_ ]{2,40}>"
    r"|\[(?:INSERT|ENTER|ADD|FILL|YOUR|NAME|DATE|CUSTOMER|ORDER|PRODUCT|COMPANY|LINK|URL|EMAIL|PHONE|PLACEHOLDER|TODO|TBD)\b"
    r"[A-Z_ ]*\]"
)
# Quotation marks that stand for the apostrophe.
_APOSTROPHES = "’‘ʼ´`＇"


def count_words(text: str) -> int:
    """Between blanks, or characters of scripts without them."""
    return len(text.split()) if text.isascii() else len(_WORD.findall(text))


def empty(text: str) -> str | None:
    """Of nothing but blanks and invisible characters."""
    if text[:1].isalnum():  # as in most texts
        return None
    return None if any(unicodedata.category(character) not in _BLANK for character in text) else "nothing visible in it"


def encoding(text: str) -> str | None:
    """Of characters that no text has, or that tell of bytes read in a wrong encoding."""
    if broken := _BROKEN.search(text):
        return f"U+{ord(broken[0]):04X} at character {broken.start() + 1}"
    if not text.isascii() and (mojibake := _MOJIBAKE.search(text)):
        return f"{mojibake[0]!r} at character {mojibake.start() + 1}: UTF-8 that was read as another encoding"
    return None


def unfilled_template(text: str) -> str | None:
    """Of a placeholder that nobody replaced."""
    return f"contains {found[0]!r}" if _OPENING.search(text) and (found := _UNFILLED.search(text)) else None


def phrase(text: str, phrases: Iterable[str]) -> str | None:
    """The first of `phrases` in the text, whatever their case, blanks and apostrophes; blanks are optional, as in Korean.

    A phrase begins where a word does: "has an AI" does not contain "as an AI".
    """
    folded = _folded(text)
    joined = "".join(folded.replace(" ", "").split())  # the commonest of all blanks first, which leaves little to split
    return next((phrase for phrase in phrases if _joined(phrase) in joined and _begins_a_word(phrase).search(folded)), None)


def _folded(text: str) -> str:
    for quotation_mark in _APOSTROPHES:  # several times faster than str.translate
        text = text.replace(quotation_mark, "'")
    return text.casefold()


@cache
def _joined(phrase: str) -> str:
    return "".join(_folded(phrase).split())


@cache
def _begins_a_word(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!{LETTER})" + r"\s*".join(map(re.escape, _joined(phrase))))
