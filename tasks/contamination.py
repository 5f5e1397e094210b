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
from functools import lru_cache, partial
from itertools import groupby, pairwise
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
_FILTER_SPARE = 4  # bits by which the filter is larger than the number of keys: one in 16 to 32 of all other n-grams passes
_CELL_BITS = 10  # of a protected text's number, by which pairs are counted roughly
_COUNT_BITS = 22  # of a table of how frequent n-grams are, which need not be exact
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
    that are indexed by it, and a row is compared with the 8 likeliest texts. The work is done by a thread a core.
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
        self.ngrams = lru_cache(maxsize=_CACHED)(lambda text: _ngrams([texts[text]])[0])
        choose = partial(_choose, _frequency(texts[:: 1 + len(texts) // _SAMPLE]), threshold)
        parts = list(map_threads(choose, batched(texts, CHUNK))) or [(np.zeros(0, np.uint32), *np.zeros((2, 0), np.int64))]
        chosen, sizes, self.required = map(np.concatenate, zip(*parts, strict=True))
        keys, self.starts, self.counts, self.texts = _postings(chosen, sizes)
        self.lookup = _Lookup(keys)
        self.least = int(self.required.min(initial=_SPARE))

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
        counts = self.counts[keys]
        texts = self.texts[np.repeat(self.starts[keys], counts) + _ranks(counts)]
        rows = np.repeat(rows, counts)
        # Most pairs share less than any text requires: their few bits tell, without the time that it takes to sort them all.
        cells = rows << _CELL_BITS | texts & (1 << _CELL_BITS) - 1
        likely = np.flatnonzero(np.bincount(cells)[cells] >= self.least)
        pairs, shared = np.unique(rows[likely] << 32 | texts[likely], return_counts=True)
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

        places, keys = self.lookup.find(_shortened(hashes))
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return rows[places], keys


class _Lookup:
    """Where hashes, uint32, stand among sorted ones: by their first bits, as a binary search of millions takes twice as long."""

    def __init__(self, keys: "Array") -> None:
        import numpy as np

        self.keys = keys
        bits = min(max(len(keys).bit_length(), 8), 32)
        self.shift = np.uint32(32 - bits)
        self.starts: Array = np.append(0, np.cumsum(np.bincount(self._beginning(keys), minlength=1 << bits))).astype(np.int32)
        # A bit for each of more beginnings: most hashes are none of the keys, which so small a table tells from the cache.
        more = min(bits + _FILTER_SPARE, 32)
        self.filter_shift = np.uint32(32 - more)
        self.filter = np.zeros(1 << (more - 3), np.uint8)
        np.bitwise_or.at(self.filter, *self._bit(keys))

    def find(self, hashes: "Array") -> tuple["Array", "Array"]:
        """Places of the hashes that are among the keys, and the places of those keys."""
        import numpy as np

        table, bit = self._bit(hashes)
        left = np.flatnonzero(self.filter[table] & bit)
        beginning = self._beginning(hashes[left])
        at, end = self.starts[beginning], self.starts[beginning + 1]
        going = at < end
        found, keys = [left[:0]], [at[:0]]
        while going.any():
            left, at, end = left[going], at[going], end[going]
            same = self.keys[at] == hashes[left]
            found.append(left[same])
            keys.append(at[same])
            at = at + 1
            going = ~same & (at < end)
        return np.concatenate(found), np.concatenate(keys)

    def _beginning(self, hashes: "Array") -> "Array":
        import numpy as np

        return (hashes >> self.shift).astype(np.intp)

    def _bit(self, hashes: "Array") -> tuple["Array", "Array"]:
        """The byte of the filter for each hash, and the bit therein."""
        import numpy as np

        places = hashes >> self.filter_shift
        return (places >> np.uint32(3)).astype(np.intp), np.left_shift(1, places & np.uint32(7), dtype=np.uint8, casting="unsafe")


def _ranks(counts: "Array") -> "Array":
    """0, 1, … within each of successive groups of these sizes."""
    import numpy as np

    ranks: Array = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _ngrams(texts: list[str]) -> tuple["Array", "Array"]:
    """The n-grams of each text, none of which is shorter than one, sorted and each once, in one array, and how many each has."""
    import numpy as np

    hashes, offsets = padded_windows(texts, "utf-8", "u1", NGRAM)
    inside = [hashes[start + NGRAM - 1 : end - NGRAM + 1] for start, end in pairwise(offsets.tolist())]
    sizes = np.diff(offsets) - 2 * (NGRAM - 1)
    starts = np.cumsum(sizes) - sizes
    for ngrams in inside:
        ngrams.sort()
    flat = np.concatenate(inside)
    first = np.append(True, flat[1:] != flat[:-1])
    first[starts] = True
    return flat[first], np.add.reduceat(first, starts, dtype=np.int64)


def _frequency(texts: list[str]) -> "Array":
    """In how many of the texts an n-gram occurs, by the first _COUNT_BITS of its hash."""
    import numpy as np

    counts: Array = np.zeros(1 << _COUNT_BITS, np.uint64)
    for ngrams, _ in map_threads(_ngrams, batched(texts, CHUNK)):
        np.add.at(counts, _count_place(ngrams), np.uint64(1))
    return counts


def _choose(frequency: "Array", threshold: float, texts: list[str]) -> tuple["Array", "Array", "Array"]:
    """The n-grams that each text is indexed by, all in one array, how many each has, and how many of those must be seen."""
    import numpy as np

    ngrams, sizes = _ngrams(texts)
    slacks = np.floor((1 - threshold) * sizes + 1e-9).astype(np.int64)
    wanted = np.minimum(sizes, slacks + _SPARE)
    # One number to sort: how frequent an n-gram is, and its place.
    order = frequency[_count_place(ngrams)] << np.uint64(32) | np.arange(len(ngrams), dtype=np.uint64)
    starts = (np.cumsum(sizes) - sizes).tolist()
    rarest = []
    for start, size, want in zip(starts, sizes.tolist(), wanted.tolist(), strict=True):
        part = order[start : start + size]
        part.sort()
        rarest.append(part[:want])
    chosen = ngrams[(np.concatenate(rarest) & np.uint64(0xFFFFFFFF)).astype(np.intp)]
    return _shortened(chosen), wanted, np.maximum(wanted - slacks, 1)


def _shortened(hashes: "Array") -> "Array":
    """Half of the bits, which take half of the time to sort and find: two n-grams that share them only make a candidate more."""
    import numpy as np

    short: Array = (hashes >> np.uint64(32)).astype(np.uint32)
    return short


def _count_place(hashes: "Array") -> "Array":
    import numpy as np

    places: Array = (hashes >> np.uint64(64 - _COUNT_BITS)).astype(np.int64)
    return places


def _postings(ngrams: "Array", sizes: "Array") -> tuple["Array", "Array", "Array", "Array"]:
    """Sorted hashes (k,), where the texts of each begin (k,), how many they are (k,; at most _POSTINGS), and the texts."""
    import numpy as np

    # One number to sort, which also tells the text: less work than to sort places and then to look there.
    pairs = ngrams.astype(np.uint64) << np.uint64(32) | np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    pairs.sort()
    ordered, texts = (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32)
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    counts = np.diff(np.append(first, len(ordered)))
    surplus = np.maximum(counts - _POSTINGS, 0)
    beyond = np.repeat(first + _POSTINGS, surplus) + _ranks(surplus)
    counts -= surplus
    return ordered[first], np.cumsum(counts) - counts, counts, np.delete(texts, beyond)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
