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

_DRAWN_UP_TO = 1_000
_ENTRIES_AT_ONCE = 1 << 17
_UNSEEN_CLUSTERS = 0.25


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
    """One-sided lower confidence bound of the mean difference: the less of two bounds, the first of which suits the scores.

    1. Binary scores, each item its own cluster: Tango's score bound (see `tango_lower_bound`), sound for few discordant items.
       Other scores: Bayesian cluster bootstrap (see `_drawn_means`), a percentile of `draws` weighted means. It is widened by
       what few clusters hide, as Hesterberg 2015 (The American Statistician 69:371) widens the plain one, and counts a quarter
       of a cluster more than was seen, at `worst`. Above 1,000 clusters its expansion (`_expanded_bound`) takes its place.
    2. What was never seen: a sample of k clusters misses, with probability 1 - confidence, a kind of item with a share of
       1 - (1 - confidence)^(1/k) (exact binomial limit for zero cases, Clopper and Pearson 1934; "rule of three"). The bound
       takes that share to be at `worst`. It decides where clusters are few, or differences so nearly equal that nothing else
       tells of a loss: of samples of 50, a quarter would pass over a total loss of 3 % of the items without it, none does.

    Share of samples whose bound is not above the truth, in %, wanted 95 (tests/benchmarks/gate_rates.py, +- 0.3):

        clusters                         12     27        50-58      100-300   500-5,000
        binary, each item a cluster                       94.8-99    94.8-97   94.9-95.4
        fractions, each item a cluster                    95.6-99.5  93.8-96   94.6-95.5
        clusters of 1 to 6 items         100    97-100    95-97      94-96     94.6-96

    The excess below 60 clusters is bound 2, the price of not being deceived by a loss that so few cannot show. If clusters only
    either lose all or stay as they were, coverage steps with their number, as a binomial one does: 95 on average, 89 at worst.
    Skewness-corrected t (Hall 1992, Journal of the Royal Statistical Society B 54:221), tried in place of bound 1, covers 86 to
    95 for 50 clusters of one item, and 74 to 95 for clusters of 1 to 6 where they are fewer than 30.

    The order of items does not matter. As long as scores stay binary, or not, no bound falls when a difference rises, but for
    the expansion.

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
    bounds = [mean + unseen_share(n_clusters, confidence) * min(worst - mean, 0.0)]
    if n_clusters == n_items and np.isin(differences, (-1, 0, 1)).all():
        bounds.append(tango_lower_bound(*discordance(differences), n_items, confidence))
    elif n_clusters > _DRAWN_UP_TO:
        bounds.append(_expanded_bound(groups, confidence, worst))
    elif n_clusters > len(groups):
        means = _drawn_means(groups, draws, seed, worst)
        bounds.append(float(np.quantile(means, _widened_share(n_clusters, len(groups), confidence), method="inverted_cdf")))
    return float(min(bounds))


def unseen_share(n_clusters: float, confidence: float) -> float:
    """The largest share of a kind of item that so many clusters may all miss, 1 if there are none; see `lower_bound`, 2."""
    return 1 - math.pow(1 - confidence, 1 / n_clusters) if n_clusters else 1.0


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
    return _spread(_by_cluster(values, clusters, strata))[0]


def discordance(differences: "Numbers") -> tuple[int, int]:
    """Items on which the candidate is better, and on which it is worse; for binary scores the discordant pairs."""
    return int((differences > 0).sum()), int((differences < 0).sum())


def power_at_no_difference(margin: float, n: float, discordant: float, confidence: float) -> float:
    """How often a model without any true loss would pass "not worse by `margin`", by the normal approximation.

    The standard error is then sqrt(discordant / n), so power = Phi(margin / error - z). Where n is so small that even equal
    answers leave a loss of the margin possible (`unseen_share`), no model passes.

    Args:
        n: independent items; with clusters, items over the design effect.
        discordant: share of items on which the two models differ.
    """
    if unseen_share(n, confidence) >= margin:
        return 0.0
    if discordant <= 0:
        return 1.0
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


def _drawn_means(groups: "Clusters", draws: int, seed: int, worst: float) -> "Numbers":
    """Means over items of `draws` Bayesian bootstrap samples; memory is bounded whatever the number of clusters.

    Each cluster gets an exponential weight, and so its stratum Dirichlet ones (Rubin 1981, Annals of Statistics 9:130). To
    second order (Edgeworth expansion; see Weng 1989, Annals of Statistics 17:705) such a percentile is off by
    skewness / (2 sqrt(k)) standard errors at any confidence, one of drawing with replacement by half more at 95 %.

    Clusters at `worst` that no sample shows count _UNSEEN_CLUSTERS of a cluster: a Dirichlet process prior (Hjort 1991, arXiv
    2605.11677). One whole cluster is thought sound for any bounded scores and any k, and covers far too much (Gaffke 2005;
    Learned-Miller and Thomas 2019, arXiv 1905.06208). Half a cluster makes up for the strongest negative skewness that clusters
    of one size can have, -(mean - worst) / sd, and none is right without skewness; a quarter is midway.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    n_items, n_clusters = sum(sizes.sum() for _, sizes in groups), sum(len(sums) for sums, _ in groups)
    means = np.zeros(draws)
    for sums, sizes in groups:
        step = max(1, _ENTRIES_AT_ONCE // len(sums))
        for start in range(0, draws, step):
            rows = slice(start, min(start + step, draws))
            weights = generator.standard_exponential((rows.stop - start, len(sums)))
            means[rows] += weights @ sums / (weights @ sizes) * (sizes.sum() / n_items)
    return means + generator.beta(_UNSEEN_CLUSTERS, n_clusters, draws) * np.minimum(worst - means, 0.0)


def _expanded_bound(groups: "Clusters", confidence: float, worst: float) -> float:
    """The percentile of `_drawn_means` for many clusters and draws: normal, corrected for skewness and what was not seen."""
    error, skewness = _spread(groups)
    n_items, n_clusters = sum(sizes.sum() for _, sizes in groups), sum(len(sums) for sums, _ in groups)
    mean, z = sum(float(sums.sum()) for sums, _ in groups) / n_items, NormalDist().inv_cdf(confidence)
    unseen = _UNSEEN_CLUSTERS / n_clusters * min(worst - mean, 0.0)
    return float(mean - z * error + (z * z - 1) / 3 * skewness * error + unseen)


def _spread(groups: "Clusters") -> tuple[float, float]:
    """Standard error of the mean over items, and the skewness of a cluster's share in it over the root of their number."""
    squares = raw = cubes = 0.0
    for sums, sizes in groups:
        if len(sums) > 1:
            residuals = sums - sizes * (sums.sum() / sizes.sum())
            square = float((residuals**2).sum())
            squares += square * len(sums) / (len(sums) - 1)
            raw += square
            cubes += float((residuals**3).sum())
    scale = raw**1.5
    return math.sqrt(squares) / sum(sizes.sum() for _, sizes in groups), cubes / scale if scale > 0 else 0.0


def _widened_share(n_clusters: int, n_strata: int, confidence: float) -> float:
    """The share of drawn means below the bound, 1 - confidence for many clusters: it makes up for Student's t and for the
    spread of the drawn means, which is that of the mean times the root of (k - strata) / (k + strata).
    """
    freedom = n_clusters - n_strata
    return NormalDist().cdf(-_student_quantile(confidence, freedom) * math.sqrt((n_clusters + n_strata) / freedom))


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
