"""Rows that say nearly the same, and prompts with more than one reply. Texts are given normalised, in any script.

A text stands for the set of its character n-grams (n = 5), padded at both ends, so that a text of one character has some too and
blanks play no part. Similarity is the Jaccard index of two such sets.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, pairwise
from math import sqrt
from typing import TYPE_CHECKING

from tasks.ngrams import CHUNK, count_shared, distinct, padded_windows
from tasks.parallel import batched, map_ordered, map_threads

if TYPE_CHECKING:
    from tasks.ngrams import Array

NGRAM = 5
"""Characters of an n-gram."""

_SLOTS = 128  # of a MinHash signature: its estimate of a similarity s has the standard error sqrt(s (1 - s) / 128)
_RECALL = 0.99  # wanted of the LSH bands for a pair whose similarity is just the threshold
_SEED = 20  # of the permutations; another one finds other borderline pairs
_DEPTHS = 3  # a bucket with more rows than it has room for is split by the next band, and again by the one after that
_ROOM = 8  # kept rows of a bucket that later rows are compared with
_CACHED = 65_536  # n-gram sets of rows that stay: 3 kB each for texts of 400 characters
_TRIALS = 4  # candidates of a row whose true similarity is computed, the most similar by estimate first


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """`row` repeats the earlier row `of`, which stays; `similarity` is their Jaccard index, in [0, 1]. Rows count from 0."""

    row: int
    of: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """Numbers of all rows that share the prompt, of which at least two differ in the reply."""

    prompt: str
    rows: tuple[int, ...]


def near_duplicates(texts: Iterable[str], threshold: float, processes: int | None = 1) -> list[NearDuplicate]:
    """Rows whose similarity to an earlier row that stays is at least `threshold`, in (0, 1]; each once, in the order of rows.

    Candidates come from MinHash signatures (Broder 1997, computed by rensa) in LSH bands (Leskovec, Rajaraman, Ullman: Mining of
    Massive Datasets, 3.4); each is then verified on the sets themselves, so what is reported is true. Of the pairs at the
    threshold the bands find at least 99 %, of more similar ones more: `lsh_shape`.

    Work is bounded for any data. A row that repeats another enters no bucket, so a large family of duplicates is one entry. Rows
    of one template that are less similar than the threshold could fill a bucket without end: of those, a row is compared with the
    first 8 and with those that share the next bands too, like in an LSH forest (Bawa, Condie, Ganesan 2005), and the 4 likeliest
    are verified. There alone pairs near the threshold can be missed.

    Memory: the texts, and at a threshold of 0.8 for each row 294 bytes of signature, and 8 bytes for each bucket that it shares
    with another one.

    `processes`, as in `tasks.parallel.map_ordered`, make the signatures.
    """
    import numpy as np

    rows: list[str] = []

    def chunks() -> Iterator[list[str]]:
        for chunk in batched(texts, CHUNK):
            rows.extend(chunk)
            yield chunk

    signed = list(map_ordered(partial(partial, _sign, *lsh_shape(threshold)), chunks(), processes))
    if not rows:
        return []
    slots, keys = zip(*signed, strict=True)
    return _first_stays(rows, np.concatenate(slots), *_buckets(np.concatenate(keys, axis=1)), threshold)


def lsh_shape(threshold: float) -> tuple[int, int]:
    """Bands b and slots of a band r: a pair of similarity s becomes a candidate with the probability 1 - (1 - s**r)**b.

    The widest bands that find 99 % at the threshold: wide bands make few false candidates.
    """
    shapes = [(_SLOTS // width, width) for width in range(_SLOTS, 0, -1)]
    return next((shape for shape in shapes if 1 - (1 - threshold ** shape[1]) ** shape[0] >= _RECALL), shapes[-1])


def conflicts(prompts: Sequence[str], replies: Sequence[str]) -> list[Conflict]:
    """Prompts that have different replies, in the order in which they appear; both may be given as hashes."""
    counts = Counter(prompts)
    members: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if counts[prompt] > 1:
            members.setdefault(prompt, []).append(row)
    return [Conflict(prompt, tuple(rows)) for prompt, rows in members.items() if len({replies[row] for row in rows}) > 1]


def _ngrams(texts: list[str]) -> tuple["Array", "Array"]:
    return padded_windows(texts, "utf-32-le", "<u4", NGRAM)


def _sign(bands: int, width: int, texts: list[str]) -> tuple["Array", "Array"]:
    """The last byte of each slot of the signatures, for estimates, uint8 (texts, slots), and the keys of their bands."""
    import numpy as np

    signatures = _signatures(texts)[:, : bands * width]
    return signatures.astype(np.uint8), _band_keys(signatures.reshape(len(texts), bands, width))


def _signatures(texts: list[str]) -> "Array":
    """MinHash signatures, uint32 (texts, _SLOTS)."""
    import numpy as np
    from rensa import RMinHash

    hashes, offsets = _ngrams(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), _SLOTS, _SEED)
    flat = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, len(texts) * _SLOTS)
    return flat.reshape(len(texts), _SLOTS)


def _band_keys(signatures: "Array") -> "Array":
    """One uint64 for each band: (rows, bands, width) -> (bands, rows)."""
    import numpy as np

    keys = np.zeros(signatures.shape[:2], np.uint64)
    for slot in range(signatures.shape[2]):
        keys ^= signatures[:, :, slot]
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return np.ascontiguousarray(keys.T)


def _buckets(keys: "Array") -> tuple["Array", "Array"]:
    """Each row with each bucket that it shares with another row, in the order of rows: two arrays, the buckets numbered from 0.

    `keys`: (bands, rows).
    """
    import numpy as np

    rows, buckets, used = [], [], 0
    for found in map_threads(partial(_shared, keys), range(len(keys))):
        for members, numbers in found:
            rows.append(members)
            buckets.append(numbers + used)
            used += int(numbers.max(initial=-1)) + 1
    together = np.concatenate(rows)
    order = np.argsort(together, kind="stable")
    return together[order], np.concatenate(buckets)[order]


def _shared(keys: "Array", band: int) -> list[tuple["Array", "Array"]]:
    """Rows that share a bucket of this band, and its number, for each depth.

    At depth d they share d + 1 successive bands; it holds only rows whose bucket at depth d - 1 has more rows than room.
    """
    import numpy as np

    members, prefix = np.arange(keys.shape[1], dtype=np.int32), keys[band]
    found = []
    for depth in range(_DEPTHS):
        order = np.argsort(prefix, kind="stable")
        starts = np.flatnonzero(np.concatenate(([True], prefix[order][1:] != prefix[order][:-1])))
        sizes = np.diff(np.append(starts, len(order)))
        several = np.repeat(sizes > 1, sizes)
        found.append((members[order[several]], np.repeat(np.arange((sizes > 1).sum(), dtype=np.int32), sizes[sizes > 1])))
        crowded = np.sort(order[np.repeat(sizes > _ROOM, sizes)])
        if not len(crowded):
            break
        members = members[crowded]
        prefix = prefix[crowded] * np.uint64(3) + keys[(band + depth + 1) % len(keys), members]
    return found


def _first_stays(texts: list[str], slots: "Array", rows: "Array", buckets: "Array", threshold: float) -> list[NearDuplicate]:
    """Rows in order: each is either a duplicate of one that stays, or stays and enters its buckets as far as they have room."""
    members = array("i", bytes(4 * _ROOM * (int(buckets.max(initial=-1)) + 1)))  # the first _ROOM rows of each bucket
    filled = bytearray(len(members) // _ROOM)
    kept_set = lru_cache(maxsize=_CACHED)(lambda row: _ngram_sets([texts[row]])[0])
    found = []
    for row, mine, own_set in _walk(texts, rows, buckets):
        candidates = {of for bucket in mine for of in members[_ROOM * bucket : _ROOM * bucket + filled[bucket]]}
        for of in _likely(slots, row, candidates, threshold):
            if (similarity := _jaccard(own_set, kept_set(of))) >= threshold:
                found.append(NearDuplicate(row, of, similarity))
                break
        else:
            for bucket in mine:
                if filled[bucket] < _ROOM:
                    members[_ROOM * bucket + filled[bucket]] = row
                    filled[bucket] += 1
    return found


def _walk(texts: list[str], rows: "Array", buckets: "Array") -> Iterator[tuple[int, list[int], "Array"]]:
    """Rows that share a bucket, with their buckets and n-gram sets."""
    import numpy as np

    sharing, starts = np.unique(rows, return_index=True)
    bounds = pairwise(np.append(starts, len(rows)).tolist())
    for block in batched(sharing.tolist(), CHUNK):
        for row, own_set in zip(block, _ngram_sets([texts[row] for row in block]), strict=True):
            yield row, buckets[slice(*next(bounds))].tolist(), own_set


def _ngram_sets(texts: list[str]) -> list["Array"]:
    hashes, offsets = _ngrams(texts)
    return [distinct(hashes[start:end]) for start, end in pairwise(offsets.tolist())]


def _likely(slots: "Array", row: int, candidates: set[int], threshold: float) -> list[int]:
    """The candidates worth a comparison, most similar first: their MinHash estimates lie within the error of the threshold."""
    import numpy as np

    if not candidates:
        return []
    rows = np.array(sorted(candidates))
    estimates = (slots[rows] == slots[row]).sum(axis=1) / slots.shape[1]
    margin = 3 * sqrt(threshold * (1 - threshold) / slots.shape[1])
    best = np.argsort(-estimates, kind="stable")[:_TRIALS]
    likely: list[int] = rows[best[estimates[best] >= threshold - margin]].tolist()
    return likely


def _jaccard(one: "Array", other: "Array") -> float:
    shared = count_shared(one, other)
    return shared / (len(one) + len(other) - shared)
