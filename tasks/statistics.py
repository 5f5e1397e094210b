"""How sure a difference between two models is. Pure functions of numpy arrays; scores are shares, so 0.01 is one point.

Two models answered the same items, so each item gives one difference (a paired design: Miller 2024, arXiv 2411.00640). Items
that belong together (one conversation, one template) form a cluster, and clusters, not items, are the independent units.
"""

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]
    Clusters = list[tuple[NDArray[Any], NDArray[Any]]]

_RESAMPLED_UP_TO = 5_000
_ENTRIES_AT_ONCE = 1 << 21


def lower_bound(
    differences: "Numbers",
    clusters: "Numbers",
    strata: "Numbers | None" = None,
    *,
    confidence: float,
    draws: int,
    seed: int,
    worst: float = -1.0,
) -> float:
    """One-sided lower confidence bound of the mean difference: the least of up to three bounds.

    1. Paired cluster bootstrap: whole clusters are drawn with replacement within each stratum, `draws` times; the bound is an
       expanded percentile, which widens the plain one by what few clusters hide (Hesterberg 2015, The American Statistician
       69:371). Above 5,000 clusters the normal approximation with the cluster-robust error takes its place.
    2. What was never seen: a sample of k clusters misses, with probability 1 - confidence, a kind of item with a share of
       1 - (1 - confidence)^(1/k) (exact binomial limit for zero cases, Clopper and Pearson 1934; "rule of three"). The bound
       takes that share to be at `worst`. It decides where clusters are few, or all differences so nearly equal that a
       bootstrap collapses.
    3. Tango's score bound (see `tango_lower_bound`) for binary scores, if each item is its own cluster. It is what counts below
       some 200 items, where bootstrap and normal bounds are too narrow (Bowyer et al. 2025, arXiv 2503.01747).

    The order of items does not matter. Bounds 1 (up to 5,000 clusters) and 2 never fall when a difference rises.

    Args:
        differences: candidate - reference for each item, finite.
        clusters: the cluster's name for each item, unique within its stratum.
        strata: the stratum's name (task) for each item; None is one stratum. The mean is over items, whatever the stratum.
        worst: the least difference that one item can show; -1 for scores between 0 and 1.

    Raises:
        ValueError: no items, lengths differ, or a difference is not finite.
    """
    import numpy as np

    groups = _by_cluster(differences, clusters, strata)
    n_items, n_clusters = len(differences), sum(len(sums) for sums, _ in groups)
    mean = sum(float(sums.sum()) for sums, _ in groups) / n_items
    unseen = 1 - (1 - confidence) ** (1 / n_clusters)
    bounds = [mean + unseen * min(worst - mean, 0.0)]
    if n_clusters > _RESAMPLED_UP_TO:
        bounds.append(mean - NormalDist().inv_cdf(confidence) * standard_error(differences, clusters, strata))
    elif n_clusters > len(groups):
        means = _resampled_means(groups, draws, seed)
        bounds.append(float(np.quantile(means, _expanded_share(n_clusters, len(groups), confidence), method="inverted_cdf")))
    if n_clusters == n_items and np.isin(differences, (-1, 0, 1)).all():
        better, worse = discordance(differences)
        bounds.append(tango_lower_bound(better, worse, n_items, confidence))
    return float(min(bounds))


def tango_lower_bound(better: int, worse: int, n: int, confidence: float) -> float:
    """One-sided lower score bound of a difference between paired proportions.

    It stays sound for few items and for no discordant pair, where a Wald or bootstrap interval has no width. Tango 1998,
    Statistics in Medicine 17:891-908; inverts the score test of a given difference, with the discordant share that is most
    likely under it.

    Args:
        better, worse: items that only the candidate, only the reference got right, out of `n` independent ones.
    """
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (better - worse) / n
    for _ in range(60):
        delta = (low + high) / 2
        slope = (2 * n - better + worse) * delta - better - worse
        share = (math.sqrt(max(0.0, slope * slope + 8 * n * worse * delta * (1 - delta))) - slope) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        if better - worse - n * delta > z * math.sqrt(max(0.0, variance)):
            low = delta
        else:
            high = delta
    return low


def standard_error(values: "Numbers", clusters: "Numbers", strata: "Numbers | None" = None) -> float:
    """Cluster-robust standard error of a mean over items, of single scores or of paired differences.

    With each item its own cluster it is sd / sqrt(n) with n - 1 in sd; with strata, spread between them does not count
    (Miller 2024, arXiv 2411.00640, sections 2 and 3). A stratum of one cluster shows no spread and adds 0.

    Raises:
        ValueError: as `lower_bound`.
    """
    total = 0.0
    for sums, sizes in _by_cluster(values, clusters, strata):
        if len(sums) > 1:
            residuals = sums - sizes * (sums.sum() / sizes.sum())
            total += float((residuals**2).sum()) * len(sums) / (len(sums) - 1)
    return math.sqrt(total) / len(values)


def discordance(differences: "Numbers") -> tuple[int, int]:
    """Items on which the candidate is better, and on which it is worse; for binary scores the discordant pairs."""
    return int((differences > 0).sum()), int((differences < 0).sum())


def power_at_no_difference(margin: float, n: float, discordant: float, confidence: float) -> float:
    """How often a model without any true loss would pass "not worse by `margin`", by the normal approximation.

    The standard error is then sqrt(discordant / n), so power = Phi(margin / error - z).

    Args:
        n: independent items; with clusters, items over the design effect.
        discordant: share of items on which the two models differ; at 0 a model with any margin always passes.
    """
    if discordant <= 0:
        return 1.0 if margin > 0 else 0.0
    return NormalDist().cdf(margin / math.sqrt(discordant / n) - NormalDist().inv_cdf(confidence))


def _by_cluster(values: "Numbers", clusters: "Numbers", strata: "Numbers | None") -> "Clusters":
    """Sums and sizes of the clusters of each stratum; sorted first, so that not even rounding depends on the order."""
    import numpy as np

    strata = np.zeros(len(values), dtype=np.int8) if strata is None else strata
    if not len(values) or len(values) != len(clusters) or len(values) != len(strata):
        raise ValueError(f"{len(values)} values, {len(clusters)} clusters, {len(strata)} strata: wanted the same number, not 0")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    stratum_code = np.unique(strata, return_inverse=True)[1]
    cluster_code = np.unique(clusters, return_inverse=True)[1]
    order = np.lexsort((values, cluster_code, stratum_code))
    stratum_code, cluster_code = stratum_code[order], cluster_code[order]
    new_stratum = np.diff(stratum_code, prepend=-1) != 0
    starts = np.flatnonzero(new_stratum | (np.diff(cluster_code, prepend=-1) != 0))
    sums = np.add.reduceat(np.asarray(values, dtype=np.float64)[order], starts)
    sizes = np.diff(starts, append=len(values)).astype(np.float64)
    cuts = np.flatnonzero(new_stratum[starts])[1:]
    return list(zip(np.split(sums, cuts), np.split(sizes, cuts), strict=True))


def _resampled_means(groups: "Clusters", draws: int, seed: int) -> "Numbers":
    """Means over items of `draws` bootstrap samples; memory is bounded whatever the number of clusters."""
    import numpy as np

    generator = np.random.default_rng(seed)
    n_items = sum(sizes.sum() for _, sizes in groups)
    means = np.zeros(draws)
    for sums, sizes in groups:
        even = bool((sizes == sizes[0]).all())
        step = max(1, _ENTRIES_AT_ONCE // len(sums))
        for start in range(0, draws, step):
            rows = slice(start, min(start + step, draws))
            drawn = generator.integers(len(sums), size=(rows.stop - start, len(sums)), dtype=np.int32)
            drawn_sizes = sizes.sum() if even else sizes[drawn].sum(axis=1)
            means[rows] += sums[drawn].sum(axis=1) / drawn_sizes * (sizes.sum() / n_items)
    return means


def _expanded_share(n_clusters: int, n_strata: int, confidence: float) -> float:
    """The share of bootstrap means below the bound: Phi(-t * sqrt(k / df)), 1 - confidence for many clusters."""
    freedom = n_clusters - n_strata
    return NormalDist().cdf(-_student_quantile(confidence, freedom) * math.sqrt(n_clusters / freedom))


def _student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun 26.7.5 (to 1 % at p = 0.95)."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / float(freedom) ** power for power, term in enumerate(terms))
