import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.statistics import discordance, lower_bound, power_at_no_difference, standard_error, tango_lower_bound

Z = 1.6448536269514722
FEW = {"confidence": 0.95, "draws": 1000, "seed": 7}


def bound(differences: Any, clusters: Any = None, strata: Any = None, **options: Any) -> float:
    values = np.asarray(differences, dtype=float)
    return lower_bound(values, np.arange(len(values)) if clusters is None else np.asarray(clusters), strata, **(FEW | options))


def outcomes(generator: np.random.Generator, shape: tuple[int, ...], discordant: float, mean: float) -> Any:
    return generator.choice([1.0, -1.0, 0.0], p=[(discordant + mean) / 2, (discordant - mean) / 2, 1 - discordant], size=shape)


def test_order_of_items_clusters_and_strata_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    values, clusters = generator.normal(size=300), generator.integers(70, size=300).astype(str)
    strata = np.array(["a", "b", "c"])[generator.integers(3, size=300)]
    for _ in range(3):
        order = generator.permutation(300)
        assert bound(values[order], clusters[order], strata[order]) == bound(values, clusters, strata)
        assert standard_error(values[order], clusters[order], strata[order]) == standard_error(values, clusters, strata)


def test_is_deterministic_and_depends_on_the_seed() -> None:
    values = np.random.default_rng(2).normal(0.3, 0.5, size=200)
    assert bound(values) == bound(values)
    assert bound(values) != bound(values, seed=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40), st.data())
def test_a_better_item_never_lowers_the_bound(values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    clusters = [index // 2 for index in range(len(values))]
    better = [min(1.0, value + 0.5) if index == place else value for index, value in enumerate(values)]
    assert bound(better, clusters) >= bound(values, clusters) - 1e-12


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_the_bound_lies_between_the_worst_and_the_mean(values: list[float]) -> None:
    assert -1 - 1e-9 <= bound(values) <= np.mean(values) + 1e-9


@pytest.mark.parametrize("n", [1, 5, 200, 900])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.4])
def test_equal_differences_are_not_certainty(n: int, value: float) -> None:
    unseen = 1 - 0.05 ** (1 / n)
    assert bound([value] * n) <= value - unseen * (1 + value) + 1e-12


def test_five_of_five_improved_says_little() -> None:
    assert bound([1.0] * 5) < 0.2
    assert bound([1.0] * 5, worst=-2.0) < bound([1.0] * 5)


def test_one_cluster_says_little_however_many_items() -> None:
    assert bound([0.5] * 500, ["same"] * 500) < -0.5


def test_clusters_count_and_not_items() -> None:
    values = np.repeat(np.random.default_rng(3).normal(0.2, 0.3, size=100), 5)
    assert bound(values, np.repeat(np.arange(100), 5)) < bound(values) - 0.02


def test_strata_remove_the_spread_between_tasks() -> None:
    values = np.concatenate([np.full(100, 0.4), np.full(100, -0.4)]) + np.random.default_rng(4).normal(0, 0.05, 200)
    strata = np.repeat(["a", "b"], 100)
    assert standard_error(values, np.arange(200), strata) < standard_error(values, np.arange(200)) / 4
    assert bound(values, None, strata) > bound(values) + 0.02


def test_a_cluster_name_is_unique_within_its_stratum_only() -> None:
    values, strata = np.random.default_rng(5).normal(size=40), np.repeat(["a", "b"], 20)
    shared, own = np.tile(np.arange(20), 2).astype(str), np.arange(40).astype(str)
    assert standard_error(values, shared, strata) == pytest.approx(standard_error(values, own, strata))


def test_agrees_with_the_normal_approximation_where_that_is_good() -> None:
    values = np.random.default_rng(6).normal(0.1, 0.3, size=2000)
    expected = values.mean() - Z * values.std(ddof=1) / math.sqrt(2000)
    assert bound(values, draws=4000) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_200_000_items_take_a_closed_form(share: float) -> None:
    values = outcomes(np.random.default_rng(7), (200_000,), 0.08, 0.0) * share
    expected = values.mean() - Z * values.std(ddof=1) / math.sqrt(200_000)
    assert bound(values, draws=10_000) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("strata", [None, np.repeat(["a", "b", "c"], 500)])
def test_the_closed_form_goes_on_where_the_drawn_bound_ends(strata: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(8).choice([0.0, 0.25, -0.25, -1.0], p=[0.8, 0.1, 0.07, 0.03], size=1500)
    clusters = np.arange(1500) * 2 // 3
    drawn = bound(values, clusters, strata, draws=50_000)
    monkeypatch.setattr("tasks.statistics._DRAWN_UP_TO", 100)
    closed = bound(values, clusters, strata)
    error = standard_error(values, clusters, strata)
    assert closed == pytest.approx(drawn, abs=0.05 * error)
    assert closed < values.mean() - (Z + 0.1) * error  # losses are skewed: the plain normal bound is too high


def test_few_clusters_and_a_collapse_lower_the_bound_below_the_plain_percentile() -> None:
    values = np.array([0.0] * 80 + [0.25] * 15 + [-1.0] * 5)
    drawn = np.random.default_rng(9).choice(values, size=(20_000, 100)).mean(axis=1)
    assert bound(values, draws=20_000) < np.quantile(drawn, 0.05) - 0.002


@pytest.mark.parametrize("n", [1, 5, 30])
def test_the_bound_of_binary_scores_depends_on_counts_and_rises_with_them(n: int) -> None:
    bounds = {
        (better, worse): bound(np.repeat([1.0, -1.0, 0.0], [better, worse, n - better - worse]))
        for better in range(n + 1)
        for worse in range(n + 1 - better)
    }
    for (better, worse), value in bounds.items():
        assert value <= tango_lower_bound(better, worse, n, 0.95)
        for other in ((better + 1, worse), (better, worse - 1), (better + 1, worse - 1)):
            assert bounds.get(other, 1.0) >= value - 1e-9


@pytest.mark.parametrize("n", [1, 5, 50, 900])
def test_tango_has_its_known_limits(n: int) -> None:
    assert tango_lower_bound(0, 0, n, 0.95) == pytest.approx(-(Z**2) / (n + Z**2))
    assert tango_lower_bound(n, 0, n, 0.95) == pytest.approx((n - Z**2) / (n + Z**2))
    assert tango_lower_bound(0, n, n, 0.95) == pytest.approx(-1)


def test_tango_inverts_the_score_test_with_the_likeliest_discordance() -> None:
    better, worse, n = 30, 12, 120
    delta = tango_lower_bound(better, worse, n, 0.95)
    shares = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
    likelihood = better * np.log(shares + delta) + worse * np.log(shares) + (n - better - worse) * np.log(1 - 2 * shares - delta)
    share = shares[likelihood.argmax()]
    score = (better - worse - n * delta) / math.sqrt(n * (2 * share + delta * (1 - delta)))
    assert score == pytest.approx(Z, abs=1e-3)


def test_standard_error_of_independent_items_is_the_usual_one() -> None:
    values = np.random.default_rng(10).normal(size=50)
    assert standard_error(values, np.arange(50)) == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert standard_error(values[:1], np.arange(1)) == 0.0


@pytest.mark.parametrize(
    ("margin", "discordant", "n"), [(0.02, 0.05, 773), (0.03, 0.10, 687), (0.05, 0.20, 495), (0.10, 0.30, 186), (0.10, 0.05, 31)]
)
def test_power_matches_the_table(margin: float, discordant: float, n: int) -> None:
    assert power_at_no_difference(margin, n, discordant, 0.95) == pytest.approx(0.8, abs=0.006)


def test_power_at_the_edges() -> None:
    assert power_at_no_difference(0.03, 900, 0.0, 0.95) == 1.0
    assert power_at_no_difference(0.0, 900, 0.0, 0.95) == 0.0
    assert power_at_no_difference(0.0, 900, 0.1, 0.95) == 0.0
    assert power_at_no_difference(0.03, 0, 0.1, 0.95) == 0.0


@pytest.mark.parametrize("n", [20, 50, 150])
def test_power_is_none_exactly_where_equal_answers_do_not_pass(n: int) -> None:
    least = -bound(np.zeros(n))
    assert power_at_no_difference(least - 1e-9, n, 0.0, 0.95) == 0.0
    assert power_at_no_difference(least + 1e-9, n, 0.0, 0.95) == 1.0


def test_discordance_counts_both_ways() -> None:
    assert discordance(np.array([1.0, 0.0, -1.0, 1.0])) == (2, 1)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"wanted the same number|not finite"):
        bound(values)


def test_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="3 values, 2 clusters"):
        bound([0.1, 0.2, 0.3], ["a", "b"])
