"""Hashed n-grams of many texts at once, the same in each process."""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


CHUNK = 1024
"""Texts hashed at once: 3 MB of hashes for texts of 400 characters, which a processor's cache holds."""


def hash_windows(units: "Array", length: int) -> "Array":
    """uint64 hash of every window of `length` units: unsigned (n,) -> (n - length + 1,)."""
    import numpy as np

    n = len(units) - length + 1
    units = units.astype(np.uint64)  # else each of the steps would convert them
    hashes = np.zeros(n, np.uint64)
    for start in range(length):  # FNV-1a, but for a multiplier of 64 bits, since a character is more than a byte
        hashes ^= units[start : start + n]
        hashes *= np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(32)
    return hashes


def padded_windows(texts: list[str], encoding: str, unit: str, length: int) -> tuple["Array", "Array"]:
    """Hashes of the windows of all texts in one array, and where those of each text begin, with the end as the last.

    `length` - 1 zeros, which no normalised text has, stand around each text: no window sees two of them.
    """
    import numpy as np

    padding = "\0" * (length - 1)
    encoded = [text.encode(encoding, "surrogatepass") for text in texts]
    separator = padding.encode(encoding)
    units = np.frombuffer(separator + separator.join(encoded) + separator, unit)
    sizes = np.fromiter(map(len, encoded), np.int64, len(texts)) // units.itemsize + len(padding)
    return hash_windows(units, length), np.concatenate(([0], np.cumsum(sizes)))


def distinct(hashes: "Array") -> "Array":
    """The hashes (at least one) sorted, each once. For a few hundred np.unique takes several times as long."""
    import numpy as np

    ordered: Array = np.sort(hashes)
    each_once: Array = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return each_once


def count_shared(one: "Array", other: "Array") -> int:
    """How many hashes two results of `distinct` have in common."""
    import numpy as np

    both: Array = np.sort(np.concatenate((one, other)))
    return int(np.count_nonzero(both[1:] == both[:-1]))
