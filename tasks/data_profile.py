"""What a version of the data looks like, as counts, and how far two versions lie apart.

A profile is published beside the model, so it holds no text: words are counted as hashed character n-grams, in any script.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.language import language_of
from tasks.ngrams import padded_windows
from tasks.records import DriftedFeature, Record

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.ngrams import Array

FEATURES = ("tokens", "reply_words", "roles", "topic", "category", "language", "vocabulary")
SIGNIFICANCE = 0.001
"""A distance that chance gives more often than this between two samples of one source is no drift, however large."""

_TEXTS = 10_000  # read for the vocabulary: those with the lowest content hashes, whatever the order of rows
_LANGUAGES = 1_000  # of them are identified, at 0.3 ms each
_NGRAM, _BUCKETS = 3, 1024
_ROLES_SHOWN = 7
_SHOWN = 3


class Profile(Record):
    """Counts of rows by feature and value, but for `vocabulary`, which counts n-grams; `accepted_sha256` names the data."""

    accepted_sha256: str
    rows: int
    counts: dict[str, dict[str, int]]


def profile(accepted: Path, accepted_sha256: str) -> Profile:
    """The profile of the rows of accepted.parquet that are not replayed. Memory: their scalars, and the texts of 10,000."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["n_tokens", "reply_words", "roles", "topic", "category", "content_hash"]
    own = ~pc.field("replay")
    table = pq.read_table(accepted, columns=columns, filters=own)
    last = pc.sort_indices(table["content_hash"])[:_TEXTS][-1]
    chosen = own & (pc.field("content_hash") <= table["content_hash"][last.as_py()])
    sample = pq.read_table(accepted, columns=["content_hash", "text"], filters=chosen)
    texts = sample.sort_by("content_hash")["text"].to_pylist()
    counts = {
        "tokens": _sizes(table["n_tokens"]),
        "reply_words": _sizes(table["reply_words"]),
        "roles": Counter(_shortened(roles) for roles in table["roles"].to_pylist()),
        "topic": Counter(table["topic"].to_pylist()),
        "category": Counter(table["category"].to_pylist()),
        "language": Counter(map(language_of, islice(texts, _LANGUAGES))),
        "vocabulary": _vocabulary(texts),
    }
    ordered = {feature: dict(sorted(values.items())) for feature, values in counts.items()}
    return Profile(accepted_sha256=accepted_sha256, rows=table.num_rows, counts=ordered)


def drift(before: Profile, now: Profile, max_distance: Mapping[str, float]) -> list[DriftedFeature]:
    """How far `now` lies from `before`, feature by feature.

    The distance is that of Jensen and Shannon (Lin 1991) to the base 2: 0 for equal shares, 1 where no value is in common; unlike
    the Kullback-Leibler divergence it is defined for values that only one side has. It counts as drift above `max_distance` if a
    G-test (Sokal, Rohlf: Biometry) gives chance less than SIGNIFICANCE, so that small data do not raise false alarms. n-grams of
    one text depend on each other, so that for `vocabulary` the distance alone decides as soon as there are a few hundred rows.
    """
    return [_compare(feature, before.counts[feature], now.counts[feature], max_distance[feature]) for feature in FEATURES]


def _compare(feature: str, before: Mapping[str, int], now: Mapping[str, int], max_distance: float) -> DriftedFeature:
    import numpy as np
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import chi2_contingency

    values = sorted(before.keys() | now.keys())
    counts = np.array([[side.get(value, 0) for value in values] for side in (before, now)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    distance = float(jensenshannon(*shares, base=2))
    chance = float(chi2_contingency(counts, lambda_="log-likelihood").pvalue) if len(values) > 1 else 1.0
    return DriftedFeature(
        feature=feature,
        distance=round(distance, 6),
        max_distance=max_distance,
        p_value=round(chance, 6),
        drifted=not (distance <= max_distance or chance >= SIGNIFICANCE),
        moved=[] if feature == "vocabulary" else _most_moved(values, shares),
    )


def _most_moved(values: list[str], shares: "Array") -> list[str]:
    changes = sorted(zip(values, *shares.tolist(), strict=True), key=lambda value: -abs(value[2] - value[1]))
    return [f"{value or 'none'} {was:.1%} -> {is_now:.1%}" for value, was, is_now in changes[:_SHOWN] if was != is_now]


def _sizes(column: "pa.ChunkedArray") -> Counter[str]:
    """Rows by the half octave of a number of tokens or words, named by its ends: 2 ** (k / 2) <= n < 2 ** ((k + 1) / 2)."""
    import numpy as np

    octaves = np.floor(2 * np.log2(np.maximum(column.to_numpy(), 1))).astype(int)
    return Counter({_ends(int(half)): int(rows) for half, rows in zip(*np.unique(octaves, return_counts=True), strict=True)})


def _ends(half: int) -> str:
    return f"{2 ** (half / 2):.0f} to {2 ** ((half + 1) / 2):.0f}"


def _shortened(roles: str) -> str:
    names = roles.split("|")
    return "|".join(names if len(names) <= _ROLES_SHOWN else [*names[:_ROLES_SHOWN], "…"])


def _vocabulary(texts: list[str]) -> Counter[str]:
    import numpy as np

    counts = sum(_bucket_counts(texts[start : start + 1000]) for start in range(0, len(texts), 1000))
    return Counter({str(bucket): int(count) for bucket, count in enumerate(np.atleast_1d(counts)) if count})


def _bucket_counts(texts: list[str]) -> "Array":
    import numpy as np

    hashes, _ = padded_windows(texts, "utf-32-le", "<u4", _NGRAM)
    counts: Array = np.bincount((hashes % np.uint64(_BUCKETS)).astype(np.int64), minlength=_BUCKETS)
    return counts
