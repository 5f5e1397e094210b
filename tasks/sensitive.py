"""Personal data and secrets in one text: whether there are any, of which kind, and the text with them masked.

No function hands out what it found, only its kind and place: a find must not travel on in messages, logs or records.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from tasks.errors import ParamsError
from tasks.text_faults import LETTER

Kind = Literal["SECRET", "EMAIL", "IBAN", "CARD", "PHONE"]
Span = tuple[int, int]


class Finds(NamedTuple):
    """Every place of one kind in a text."""

    kind: Kind
    spans: list[Span]


Find = Callable[[str], Finds | None]

NAMES: dict[Kind, str] = {
    "SECRET": "a key, token or password",
    "EMAIL": "an e-mail address",
    "IBAN": "an IBAN",
    "CARD": "a card number",
    "PHONE": "a phone number",
}

# In Korean, Japanese and Chinese a number or an address may well touch the words around it.
_START, _END = rf"(?<!{LETTER})", rf"(?!{LETTER})"

# RFC 5321 allows 64 characters before the @; the last label is a word, which "3 pieces@4.50" has not.
_EMAIL = re.compile(rf"(?:{LETTER}|[.+-]){{1,64}}@(?:{LETTER}|-)+(?:\.(?:{LETTER}|-)+)*\.(?![0-9_]){LETTER}{{2,}}")

# The cheap test before all numbers: no IBAN, card or phone number has fewer digits, or more than a few signs between two.
_MANY_DIGITS = re.compile(r"\d(?:[^\w\n]{0,4}\d){6}")
# The group is looked ahead at, so that a search also begins at each later word: a number may follow another one.
_IBAN = re.compile(rf"{_START}(?=([A-Z]{{2}}[0-9]{{2}}[A-Z0-9]*(?: [A-Z0-9]{{1,4}}){{0,8}}){_END})", re.IGNORECASE)
_CARD = re.compile(rf"{_START}(?=([2-6][0-9]{{3}}(?:[0-9]+|(?:[ -][0-9]{{3,7}}){{2,4}})){_END})")
# The ranges of Visa, Mastercard, American Express, Diners Club, Discover, JCB and UnionPay with their lengths. Not Maestro, which
# has almost every number from 50 to 69, nor the 13 digits of old Visa cards, which a tenth of all article numbers (EAN) would be.
_ISSUED = re.compile(
    r"4\d{15}(?:\d{3})?|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|(?:6011|65\d\d|64[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
# How a phone number is written: with + or a leading zero or bracket, or in North America's groups of 3, 3 and 4. Bare digits are
# left alone, though every third order number of ten digits is a valid number of North America.
_PHONE = re.compile(
    rf"{_START}(?<![-#])(?<!\d[.,/])"
    rf"(?:(?:[+＋(（]|\(?[0０])(?:[^\w\n]{{0,4}}\d){{7}}|\d{{3}}[ .-]\d{{3}}[ .-]\d{{4}}{_END})"
)
# Dates with their year or closing dot, and ISBN-10 by its groups: with a leading zero they are valid numbers of some country.
_NO_PHONE = re.compile(
    r"(?<!\d)(?:0?[1-9]|[12]\d|3[01])([./-])(?:0?[1-9]|1[0-2])\1(?:(?:19|20)\d\d(?!\d)|(?!\w))"
    r"|(?<!\d)\d([ -])\d{2,7}\2\d{2,7}\2[\dX](?!\d)"
)

# Mark -> pattern: a pattern is only tried where its mark stands. Prefixes and alphabets as their issuers document them and as the
# rules of gitleaks have them (gitleaks/gitleaks, config/gitleaks.toml); lengths are left open upwards, since issuers raise them.
_SECRETS = {
    mark: re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})")
    for mark, pattern in {
        "AKIA": r"AKIA[A-Z2-7]{16}",  # AWS, IAM unique identifiers: a long-term key
        "ASIA": r"ASIA[A-Z2-7]{16}",  # AWS: a temporary one
        "aws_secret_access_key": r"aws_secret_access_key\W{1,4}[A-Za-z0-9/+]{40}",
        "AWS_SECRET_ACCESS_KEY": r"AWS_SECRET_ACCESS_KEY\W{1,4}[A-Za-z0-9/+]{40}",
        "AIza": r"AIza[\w-]{35,}",  # Google
        "ghp_": r"ghp_[A-Za-z0-9]{36,}",  # GitHub, about authentication: p, o, u, s, r by the kind of token
        "gho_": r"gho_[A-Za-z0-9]{36,}",
        "ghu_": r"ghu_[A-Za-z0-9]{36,}",
        "ghs_": r"ghs_[A-Za-z0-9]{36,}",
        "ghr_": r"ghr_[A-Za-z0-9]{36,}",
        "github_pat_": r"github_pat_[A-Za-z0-9_]{60,}",
        "glpat-": r"glpat-[A-Za-z0-9_.-]{20,}",  # GitLab
        "hf_": r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
        "xox": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack: tokens
        "xapp-": r"xapp-[A-Za-z0-9-]{10,}",
        "hooks.slack.com/": r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,}",
        "sk-": r"sk-(?=[A-Za-z_-]{0,99}[0-9])(?=[a-z0-9_-]{0,99}[A-Z])[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, others
        "k_live_": r"[sr]k_live_[A-Za-z0-9]{16,}",  # Stripe
        "npm_": r"npm_[A-Za-z0-9]{36,}",
        "pypi-": r"pypi-[A-Za-z0-9_-]{50,}",
        "eyJ": r"eyJ[A-Za-z0-9_-]{10,999}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+",  # JWT, RFC 7519
        # RFC 7468 and OpenPGP; up to its end, or to the end of the text where that was cut off.
        "PRIVATE KEY": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]*-----|\Z)",
        # RFC 3986, user information; brackets of any kind are not allowed in it, so they tell of a placeholder.
        "://": r"(?<=://)[^\s/?#:<>{}\[\]]{0,256}:[^\s/?#<>{}\[\]]{1,256}(?=@)",
    }.items()
}


def find_secret(text: str) -> Finds | None:
    """API keys, tokens, private keys, and passwords in URLs."""
    spans = [match.span() for mark, pattern in _SECRETS.items() if mark in text for match in pattern.finditer(text)]
    return Finds("SECRET", spans) if spans else None


def find_email(text: str) -> Finds | None:
    """E-mail addresses alone."""
    spans = [match.span() for match in _EMAIL.finditer(text)] if "@" in text else []
    return Finds("EMAIL", spans) if spans else None


def find_personal_data(text: str, regions: tuple[str, ...]) -> Finds | None:
    """The first kind of personal data in a text: e-mail address, IBAN, card number, phone number.

    Args:
        text: Of any script.
        regions: Countries whose phone numbers are recognised without + and country code.
    """
    if found := find_email(text):
        return found
    if not _MANY_DIGITS.search(text):
        return None
    if spans := list(_valid(_IBAN, text, _is_iban)):
        return Finds("IBAN", spans)
    if spans := list(_valid(_CARD, text, _is_card)):
        return Finds("CARD", spans)
    if _PHONE.search(text) and (spans := list(_phones(text, regions))):
        return Finds("PHONE", spans)
    return None


def mask(text: str, find: Find) -> tuple[str, set[Kind]]:
    """The text with a placeholder such as [EMAIL] for each find, and the kinds found; `find` finds nothing in what is left."""
    kinds: set[Kind] = set()
    while found := find(text):  # again, since what stood beside a find may be one only without it
        kinds.add(found.kind)
        text = _replaced(text, found)
    return text, kinds


def check_regions(regions: Iterable[str]) -> None:
    """Refuse what is no country of the phone library, such as UK for GB.

    Raises:
        ParamsError: with the first one.
    """
    from phonenumbers import SUPPORTED_REGIONS

    for region in regions:
        if region not in SUPPORTED_REGIONS:
            raise ParamsError(f"validate.phone_regions: found {region!r}, wanted ISO 3166 codes of countries, such as GB or KR")


def _replaced(text: str, found: Finds) -> str:
    parts, end = [], 0
    for start, stop in sorted(found.spans):
        if start >= end:  # two spans may overlap; what is left of the later one is for the next round
            parts += [text[end:start], f"[{found.kind}]"]
            end = stop
    return "".join([*parts, text[end:]])


def _valid(candidates: re.Pattern[str], text: str, valid: Callable[[str], bool]) -> Iterator[Span]:
    """Other words may follow a number, so each separator may be its end; the longest valid one counts."""
    for match in candidates.finditer(text):
        start, found = match.start(1), match[1]
        ends = [separator.start() for separator in re.finditer(r"[ -]|$", found)]
        if end := next((end for end in reversed(ends) if valid(found[:end])), None):
            yield start, start + end


def _is_iban(text: str) -> bool:
    from stdnum import iban

    return iban.is_valid(text)


def _is_card(text: str) -> bool:
    from stdnum import luhn

    digits = re.sub("[ -]", "", text)
    return _ISSUED.fullmatch(digits) is not None and luhn.is_valid(digits)


def _phones(text: str, regions: tuple[str, ...]) -> Iterator[Span]:
    """Valid numbers of any country with + and country code, of `regions` also as they are dialled there."""
    from phonenumbers import UNKNOWN_REGION, Leniency, PhoneNumberMatcher

    text = _NO_PHONE.sub(lambda match: "x" * len(match[0]), text)
    for region in regions or (UNKNOWN_REGION,):
        for match in PhoneNumberMatcher(text, region, Leniency.VALID):
            if _PHONE.match(text, match.start):
                yield match.start, match.end
