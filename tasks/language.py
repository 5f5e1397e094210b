"""Whether a text is confidently of another language than the declared one. py3langid: offline, its model lies in its wheel.

Of 5,987 Korean and 9,585 English questions and the default data, no text was taken for one of another language. Declared as
another, all Korean ones, 98.7 % of the English ones and all default rows were refused. lingua 2.1 is as good (with its small
models worse), but 4 to 20 times slower on English, and takes 96 MB on disk, 0.9 GB of memory and 27 s for its first text.
"""

from functools import cache
from typing import TYPE_CHECKING

from tasks.errors import ParamsError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

CONFIDENT = 0.5  # of about 140 languages, relatives such as Danish and Norwegian among them, which share what is certain
TIMES_LIKELIER = 20  # than the declared language
# Of letters in UTF-8: 20 Latin ones or 7 syllables of Hangul, which say about as much. Shorter texts are not judged.
MIN_BYTES = 20
MAX_CHARACTERS = 1000  # more add time, not certainty
UNKNOWN = "unknown"


def other_language(text: str, language: str) -> str | None:
    """The code of the language that `text` is in, if that is certain and another one than `language`."""
    text = text[:MAX_CHARACTERS]
    if _too_short(text):
        return None
    confidences = dict(_identifier().rank(text))
    found = max(confidences, key=confidences.__getitem__)
    # zxx is no language, such as code.
    certain = found != "zxx" and confidences[found] >= max(CONFIDENT, TIMES_LIKELIER * confidences[language])
    return str(found) if certain else None


def language_of(text: str) -> str:
    """The code of the language that `text` is in, `unknown` where it is too short to tell or that is not certain."""
    text = text[:MAX_CHARACTERS]
    if _too_short(text):
        return UNKNOWN
    code, confidence = _identifier().classify(text)
    return str(code) if confidence >= CONFIDENT else UNKNOWN


def _too_short(text: str) -> bool:
    return len("".join(filter(str.isalpha, text)).encode()) < MIN_BYTES


def check_language(language: str) -> None:
    """Refuse a language that is not known.

    Raises:
        ParamsError: it is none of those that are listed in the message.
    """
    known = sorted(label for label in _identifier().labels if len(label) == 2)
    if language not in known:
        raise ParamsError(f"validate.language: found {language!r}, wanted null or one of {', '.join(known)}")


@cache
def _identifier() -> "LanguageIdentifier":
    """Read once a process, in about a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
