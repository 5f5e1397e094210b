"""Training texts that repeat what a model is scored on. Texts are given normalised, in any script.

The overlap of a protected text with a training text is the share of its n-grams that occur in the training text (Broder's
containment, 1997), as in PaLM, where 70 % of the n-grams of 8 words told contamination (Chowdhery et al. 2022, section 8). But
scripts without blanks have no such words, and 13 of them, as for GPT-3 (Brown et al. 2020, appendix C), are more than most
prompts have. So an n-gram here is of 10 bytes of UTF-8: 10 Latin letters, 5 Cyrillic or Arabic ones, 3 to 4 Hangul syllables or
Han characters, which say about as much.

A protected text of less than 30 bytes, such as `4 plus 4 equals`, is made of what any text may contain. It counts only where it
is the whole training text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, pairwise
from math import floor
from operator import itemgetter
from typing import TYPE_CHECKING

from tasks.ngrams import CHUNK, count_shared, distinct, padded_windows
from tasks.parallel import batched, map_threads

if TYPE_CHECKING:
    from tasks.ngrams import Array

NGRAM = 10
"""Bytes of an n-gram."""
MIN_BYTES = 30
"""Of a protected text that is looked for inside of training texts."""

_SPARE = 8  # n-grams that a text is indexed by beyond those that may be absent: so many must be seen before it is compared
_TRIALS = 8  # protected texts that a training text is compared with, by the number of shared indexed n-grams
_POSTINGS = 64  # protected texts that one n-gram leads to
_FILTER_BITS = 24  # of a table that tells at once that an n-gram is not indexed
_COUNT_BITS = 20  # of a table of how frequent n-grams are, which need not be exact
_SAMPLE = 16_384  # protected texts in which n-grams are counted, to tell rare ones
_CACHED = 65_536  # sets of n-grams of protected texts that were compared: 3 kB each for texts of 400 characters


@dataclass(frozen=True, slots=True)
class Leak:
    """Training text `row`, counted from 0, holds the share `overlap`, in (0, 1], of the protected text named `of`."""

    row: int
    of: str
    overlap: float


def contaminated(train: Iterable[str], protected: Iterable[tuple[str, str]], threshold: float) -> list[Leak]:
    """Training rows that hold at least `threshold`, in (0, 1], of a protected (name, text); each once, with the largest overlap.

    Work is bounded for any data, by what only protected texts that are alike can notice: an n-gram leads to the first 64 texts
    that are indexed by it, and a row is compared with the 8 likeliest texts.
    """
    names: dict[str, str] = {}
    for name, text in protected:
        names.setdefault(text, name)
    short = {text: name for text, name in names.items() if text and len(_encode(text)) < MIN_BYTES}
    index = _Index([(name, text) for text, name in names.items() if len(_encode(text)) >= MIN_BYTES], threshold)

    def search(chunk: list[str]) -> dict[int, tuple[float, str]]:
        return index.search(chunk) | {row: (1.0, short[text]) for row, text in enumerate(chunk) if text in short}

    return [
        Leak(number * CHUNK + row, name, overlap)
        for number, found in enumerate(map_threads(search, batched(train, CHUNK)))
        for row, (overlap, name) in sorted(found.items())
    ]


class _Index:
    """Protected texts by their rarest n-grams.

    A text of m n-grams may lack `slack` = floor((1 - threshold) m) of them, so a training text that holds it has all but `slack`
    of any choice of its n-grams (prefix filtering: Chaudhuri, Ganti, Kaushik 2006). The choice is the `slack` + _SPARE n-grams
    that are the rarest in a sample of the texts.
    """

    def __init__(self, protected: list[tuple[str, str]], threshold: float) -> None:
        import numpy as np

        self.names = [name for name, _ in protected]
        self.threshold = threshold
        texts = [text for _, text in protected]
        self.ngrams = lru_cache(maxsize=_CACHED)(lambda text: _ngram_sets([texts[text]])[0])
        frequency = _frequency(texts[:: 1 + len(texts) // _SAMPLE])
        chosen, required = [], []
        for ngrams in chain.from_iterable(map(_ngram_sets, batched(texts, CHUNK))):
            slack = floor((1 - threshold) * len(ngrams) + 1e-9)
            rarest_first = np.argsort(frequency[_count_place(ngrams)], kind="stable")
            chosen.append(ngrams[rarest_first[: slack + _SPARE]])
            required.append(max(len(chosen[-1]) - slack, 1))
        self.keys, self.starts, self.texts = _postings(chosen)
        self.required = np.array(required, np.int64)
        self.filter: Array = np.zeros(1 << _FILTER_BITS, bool)
        self.filter[_filter_place(self.keys)] = True

    def search(self, chunk: list[str]) -> dict[int, tuple[float, str]]:
        """Overlap and name for each row of the chunk that holds a protected text."""
        hashes, offsets = padded_windows(chunk, "utf-8", "u1", NGRAM)
        best: dict[int, tuple[float, str]] = {}
        for row, texts in groupby(self._candidates(hashes, offsets), key=itemgetter(0)):
            own = distinct(hashes[offsets[row] : offsets[row + 1]])
            overlaps = [(count_shared(self.ngrams(text), own) / len(self.ngrams(text)), text) for _, text in texts]
            overlap, text = max(overlaps, key=itemgetter(0))
            if overlap >= self.threshold:
                best[row] = (overlap, self.names[text])
        return best

    def _candidates(self, hashes: "Array", offsets: "Array") -> list[list[int]]:
        """Pairs of row and protected text that share as many indexed n-grams as is required, at most _TRIALS a row."""
        import numpy as np

        rows, keys = self._seen(hashes, offsets)
        counts = np.diff(self.starts)[keys]
        texts = self.texts[np.repeat(self.starts[keys], counts) + _ranks(counts)]
        pairs, shared = np.unique(np.repeat(rows, counts) << 32 | texts, return_counts=True)
        rows, texts = pairs >> 32, pairs & 0xFFFFFFFF
        enough = np.flatnonzero(shared >= self.required[texts])
        likeliest_first = enough[np.lexsort((texts[enough], -shared[enough], rows[enough]))]
        rows, texts = rows[likeliest_first], texts[likeliest_first]
        tried = _ranks(np.unique(rows, return_counts=True)[1]) < _TRIALS
        candidates: list[list[int]] = np.column_stack((rows[tried], texts[tried])).tolist()
        return candidates

    def _seen(self, hashes: "Array", offsets: "Array") -> tuple["Array", "Array"]:
        """Rows, and places in `keys` of the indexed n-grams in them. A repeated one counts again: it only adds candidates."""
        import numpy as np

        places = np.flatnonzero(self.filter[_filter_place(hashes)])
        if not len(self.keys) or not len(places):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = places[np.argsort(hashes[places])]  # in order, a binary search finds its neighbours in the cache
        keys = np.searchsorted(self.keys, hashes[places]).clip(max=len(self.keys) - 1)
        known = self.keys[keys] == hashes[places]
        rows = np.searchsorted(offsets, places[known], side="right") - 1
        return rows, keys[known]


def _filter_place(hashes: "Array") -> "Array":
    """A number of _FILTER_BITS for each hash; a table of that size fits a processor's cache, which a binary search leaves."""
    import numpy as np

    places: Array = hashes >> np.uint64(64 - _FILTER_BITS)
    return places


def _ranks(counts: "Array") -> "Array":
    """0, 1, … within each of successive groups of these sizes."""
    import numpy as np

    ranks: Array = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _ngram_sets(texts: list[str]) -> list["Array"]:
    hashes, offsets = padded_windows(texts, "utf-8", "u1", NGRAM)
    return [distinct(hashes[start + NGRAM - 1 : end - NGRAM + 1]) for start, end in pairwise(offsets.tolist())]


def _frequency(texts: list[str]) -> "Array":
    """In how many of the texts an n-gram occurs, by the first _COUNT_BITS of its hash."""
    import numpy as np

    counts: Array = np.zeros(1 << _COUNT_BITS, np.int64)
    for chunk in batched(texts, CHUNK):
        counts += np.bincount(_count_place(np.concatenate(_ngram_sets(chunk))), minlength=len(counts))
    return counts


def _count_place(hashes: "Array") -> "Array":
    import numpy as np

    places: Array = (hashes >> np.uint64(64 - _COUNT_BITS)).astype(np.int64)
    return places


def _postings(ngrams: list["Array"]) -> tuple["Array", "Array", "Array"]:
    """Sorted n-grams (k,), where the texts of each begin (k + 1,), and the texts, in their order, at most _POSTINGS each."""
    import numpy as np

    texts = np.repeat(np.arange(len(ngrams)), np.fromiter(map(len, ngrams), np.int64, len(ngrams)))
    flat: Array = np.concatenate([*ngrams, np.zeros(0, np.uint64)])
    order = np.argsort(flat, kind="stable")
    keys, counts = np.unique(flat, return_counts=True)
    kept = _ranks(counts) < _POSTINGS
    return keys, np.concatenate(([0], np.cumsum(np.minimum(counts, _POSTINGS)))), texts[order[kept]]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
