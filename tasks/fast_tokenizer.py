"""Tokens of many texts at once by fastokens, a thirtieth of the time of tokenizers; the same tokens, or none at all."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.chat import Span, Tokens
from tasks.errors import BaseModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ASCII = f"Don't you'LL  we've\n\n  indented\t1234567.89 (e.g. O'Neill) -- x_y=z; https://a.example/?b=1#c\r\n{' ' * 40}!!!!!!!!"
_PROBES = (
    _ASCII,
    "naïve café, O’Neill; 한국어 문장입니다. 日本語の文、中文句子。 Привет, мир! שלום مرحبا สวัสดี नमस्ते ½ ﬁ İ ß",
    "👍🏽 👩‍👩‍👧 e\u0301 \u200b\u00a0\u3000 \u2028" + "a" * 300 + "\n" * 5,
)

WORTHWHILE = 2 << 20
"""Bytes of raw files above which it takes less time to make one than it saves."""


class FastTokenizer:
    """A byte-level BPE: its tokens are the bytes of a text, one after another, which tells where each of them stands."""

    def __init__(self, tokenizer: Any) -> None:
        """Use `make`, which says whether this one will do."""
        # A process works on each core: with a thread a core in each of them, a machine of 64 would have 4,096.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        import fastokens
        import numpy as np

        self._own = tokenizer.backend_tokenizer
        self._normalizer = self._own.normalizer
        self._encode = fastokens.Tokenizer.from_json_str(self._own.to_str()).encode_batch_flat
        sizes = {number: len(piece) for piece, number in self._own.get_vocab().items()}  # one character stands for one byte
        sizes |= {number: len(token.content.encode()) for number, token in self._own.get_added_tokens_decoder().items()}
        self._bytes: NDArray[Any] = np.zeros(max(sizes) + 1, dtype=np.int64)
        self._bytes[list(sizes)] = list(sizes.values())

    @classmethod
    def make(cls, tokenizer: Any) -> "FastTokenizer | None":
        """None where fastokens is not installed, does not know all of this tokenizer, or sees other tokens or places."""
        try:
            made = cls(tokenizer)
        except (ImportError, ValueError):
            return None
        return made if made._sees_the_same() else None

    def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[Tokens | None]:
        """Tokens of each text, and the same with -100 where a token is not wholly within one of the spans (in characters).

        Returns:
            None for a text whose tokens are not its bytes, such as one with a byte that has no token.

        Raises:
            BaseModelError: the first text has other tokens than the tokenizer itself gives it.
        """
        import numpy as np

        if (encoded := self._flat(texts)) is None:
            return [None] * len(texts)
        ids, bounds, ends = encoded
        self._compare(texts[0], ids[: bounds[1]].tolist())
        begins = ends[bounds]
        whole = [
            end - begin == _size(text, len(text)) and self._stays(text)
            for text, begin, end in zip(texts, begins.tolist(), begins[1:].tolist(), strict=False)
        ]
        wanted = [
            (begin + _size(text, start), begin + _size(text, end))
            for text, begin, inside, good in zip(texts, begins[:-1].tolist(), spans, whole, strict=True)
            if good
            for start, end in inside
        ]
        supervised = _within(ends, np.array(wanted, dtype=np.int64).reshape(-1, 2))
        labels = np.where(supervised, ids, np.int32(-100))
        parts = map(slice, bounds[:-1].tolist(), bounds[1:].tolist())
        return [
            {"input_ids": ids[part], "labels": labels[part]} if good else None for part, good in zip(parts, whole, strict=True)
        ]

    def _stays(self, text: str) -> bool:
        """Whether the tokenizer does not change the text first: its bytes may be as many as before and stand elsewhere."""
        return self._normalizer is None or self._normalizer.normalize_str(text) == text

    def _flat(self, texts: Sequence[str]) -> "tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None":
        """Tokens of all texts in one row, where each text begins and the last one ends, and how many bytes lie before each token.

        None if a byte of them has no token.
        """
        import numpy as np

        try:
            ids, bounds = self._encode(list(texts))
        except ValueError:
            return None
        numbers = np.frombuffer(ids, dtype="<u4").astype(np.int32)
        ends = np.concatenate(([0], np.cumsum(self._bytes[numbers])))
        return numbers, np.frombuffer(bounds, dtype="<u8").astype(np.int64), ends

    def _sees_the_same(self) -> bool:
        """The tokens of all probes, and their places in one of them, where a byte is a character: some tokenizers trim blanks."""
        for text in _PROBES:
            own, found = self._own.encode(text, add_special_tokens=False), self._flat([text])
            if found is not None and own.ids != found[0].tolist():
                return False
            if text is _ASCII and (found is None or own.offsets != list(zip(found[2][:-1], found[2][1:], strict=True))):
                return False
        return True

    def _compare(self, text: str, ids: list[int]) -> None:
        if self._own.encode(text, add_special_tokens=False).ids != ids:
            raise BaseModelError(
                f"fastokens gives other tokens than the base model's tokenizer for a text of {len(text)} characters; Refit works "
                "without it: run `pip uninstall fastokens`"
            )


def _size(text: str, end: int) -> int:
    """Bytes of the first characters of a text."""
    return end if text.isascii() else len(text[:end].encode())


def _within(ends: "NDArray[Any]", spans: "NDArray[Any]") -> "NDArray[Any]":
    """Which tokens lie wholly within one of the spans, (n, 2), none of which overlap.

    `ends`: bytes before each token, and before the end.
    """
    import numpy as np

    first = np.searchsorted(ends[:-1], spans[:, 0])
    behind = np.maximum(np.searchsorted(ends[1:], spans[:, 1], side="right"), first)
    change = np.zeros(len(ends), dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, behind, -1)
    inside: NDArray[Any] = np.cumsum(change[:-1]) > 0
    return inside
