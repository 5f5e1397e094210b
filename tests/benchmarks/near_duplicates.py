"""Near duplicates among rows of 400 characters, every tenth of which repeats an earlier one but for a word.

.venv/bin/python tests/benchmarks/near_duplicates.py            # 100,000 rows, and datasketch if it is installed
.venv/bin/python tests/benchmarks/near_duplicates.py 1000000    # and 1,000,000 rows: the ratio of the times is to be 11 at most

The peer is datasketch in pure Python, the usual way: a MinHash of the same n-grams for each row, and one LSH index.
"""

import random
import resource
import sys
import time
from collections.abc import Iterator

from tasks.dedupe import NGRAM, lsh_shape, near_duplicates

THRESHOLD = 0.8
SAMPLE = 2000
WORDS = 62


def rows(n: int) -> Iterator[str]:
    rng = random.Random(1)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    recent: list[list[str]] = [rng.choices(vocabulary, k=WORDS)]
    for row in range(n):
        words = rng.choices(vocabulary, k=WORDS)
        if row % 10 == 9:
            words = list(rng.choice(recent))
            words[rng.randrange(WORDS)] = rng.choice(vocabulary)
        elif len(recent) < 1000:
            recent.append(words)
        else:
            recent[rng.randrange(1000)] = words
        yield " ".join(words)


def measure(n: int) -> float:
    """Processor seconds of near_duplicates alone: the clock of a shared machine also counts what others do."""
    began = time.process_time()
    for _ in rows(n):
        pass
    generating = time.process_time() - began
    began, clock = time.process_time(), time.perf_counter()
    found = near_duplicates(rows(n), THRESHOLD)
    seconds = time.process_time() - began - generating
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"{n:,} rows: {len(found):,} found of {n // 10:,}, {seconds:.1f} s of processor, {n / seconds:,.0f} rows/s, "
        f"peak {peak:.2f} GB; by the clock {time.perf_counter() - clock:.1f} s, of which {generating:.1f} s made the rows"
    )
    return seconds / n


def peer() -> float:
    from datasketch import MinHash, MinHashLSH

    texts = list(rows(SAMPLE))
    began = time.process_time()
    index = MinHashLSH(num_perm=128, params=lsh_shape(THRESHOLD))
    for row, text in enumerate(texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([text[start : start + NGRAM].encode() for start in range(len(text) - NGRAM + 1)])
        if not index.query(signature):
            index.insert(row, signature)
    return (time.process_time() - began) / SAMPLE


def main() -> None:
    small = measure(100_000)
    for n in map(int, sys.argv[1:]):
        print(f"time ratio of {n:,} rows to 100,000: {measure(n) * n / (small * 100_000):.1f}")
    try:
        print(f"datasketch on {SAMPLE:,} rows: {1 / (seconds := peer()):,.0f} rows/s, ratio {seconds / small:.0f}")
    except ImportError:
        print("datasketch is not installed: pip install datasketch==2.0.0 to compare")


if __name__ == "__main__":
    main()
