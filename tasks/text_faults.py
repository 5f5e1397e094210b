"""Faults in one text, whatever its role: each function says in a few words what is wrong, or None."""

import re
import unicodedata

_BLANK = {"Zs", "Zl", "Zp", "Cc", "Cf"}
_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")
# UTF-8 read as cp1252: a lead byte and its continuation as that code page shows them. Closing punctuation counts as one only
# inside a word, since a word in capitals may well end on Ã before it.
_CONTINUED = "\xa0-\xba\xbc-\xbf€‚ƒ„†‡ˆ‰Š‹ŒŽ‘“•˜™š›œžŸ"
_MOJIBAKE = re.compile(rf"[ÂÃ](?:[{_CONTINUED}]|[”’»…–—](?=[a-z]))|â[€‚„†]|ðŸ|(?:[ÐÑ][{_CONTINUED}]){{2}}")
_UNFILLED = re.compile(
    r"\{\{[^{}\n]*\}\}|\$?\{[A-Za-z_][\w. -]{0,40}\}|<[A-Z][A-Z_ ]{2,40}>"
    r"|\[(?:INSERT|ENTER|ADD|FILL|YOUR|NAME|DATE|CUSTOMER|ORDER|PRODUCT|COMPANY|LINK|URL|EMAIL|PHONE|PLACEHOLDER|TODO|TBD)\b"
    r"[A-Z_ ]*\]"
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(
    r"(?<![\w.,])(?:\+|00)[1-9][\d ()/.-]{6,20}\d(?!\w)"
    r"|(?<![\w.,+-])0[1-9]\d{1,4}[ /-]\d{3,4}[ -]?\d{2,5}(?!\w)"
    r"|(?<![\w.,+-])\(?[2-9]\d{2}\)?[ .-]\d{3}[.-]\d{4}(?!\w)"
)
_CARD = re.compile(r"(?<!\w)[2-6](?:[ -]?\d){13,18}(?!\w)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")


def empty(text: str) -> str | None:
    """Of nothing but blanks and invisible characters."""
    return None if any(unicodedata.category(character) not in _BLANK for character in text) else "nothing visible in it"


def encoding(text: str) -> str | None:
    """Of characters that no text has, or that tell of bytes read in a wrong encoding."""
    if broken := _BROKEN.search(text):
        return f"U+{ord(broken[0]):04X} at character {broken.start() + 1}"
    if mojibake := _MOJIBAKE.search(text):
        return f"{mojibake[0]!r} at character {mojibake.start() + 1}: UTF-8 that was read as another encoding"
    return None


def unfilled_template(text: str) -> str | None:
    """Of a placeholder that nobody replaced."""
    return f"contains {found[0]!r}" if (found := _UNFILLED.search(text)) else None


def personal_data(text: str) -> str | None:
    """Of an e-mail address, IBAN, card or phone number. Names the kind only: the find must not travel on in messages."""
    if _EMAIL.search(text):
        return "an e-mail address"
    if any(_is_iban(found[0]) for found in _IBAN.finditer(text)):
        return "an IBAN"
    if any(_is_card(found[0]) for found in _CARD.finditer(text)):
        return "a card number"
    if any(8 <= sum(map(str.isdigit, found[0])) <= 15 for found in _PHONE.finditer(text)):
        return "a phone number"
    return None


def _is_card(text: str) -> bool:
    """The Luhn check."""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    return sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 13616: the rest by 97 is 1. A word in capitals may follow the number, so each blank may be its end."""
    ends = [match.start() for match in re.finditer(" |$", text)]
    candidates = (text[:end].replace(" ", "") for end in ends)
    return any(len(iban) >= 15 and int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1 for iban in candidates)
