"""How often the gate errs: tests/benchmarks/gate_rates.py at reduced size, at fixed seeds."""

import pytest

from tests.benchmarks.gate_rates import (
    AT_MARGIN,
    COLLAPSE,
    EQUAL,
    GRID,
    HARDLY_WORSE,
    LEARNED,
    TASKS,
    THIRDS,
    Design,
    Law,
    coverage,
    exact_coverage,
    kept_rate,
    lost_or_not,
)

REPETITIONS, DRAWS = 1_200, 400
NOISE = 0.0125
"""Two Monte-Carlo errors of a share of 95 % among REPETITIONS; the seeds are fixed, so that it does not fail by chance."""


@pytest.mark.parametrize("law", [EQUAL, AT_MARGIN, *GRID[::7]])
@pytest.mark.parametrize("n", [50, 100, 200, 500])
def test_the_bound_of_independent_binary_scores_covers_95_percent(law: Law, n: int) -> None:
    covered, _ = exact_coverage(law, n)
    assert 0.945 <= covered <= (0.96 if n >= 200 else 0.99)


@pytest.mark.parametrize(
    ("design", "n"),
    [
        (Design("skewed", HARDLY_WORSE), 50),
        (Design("skewed", HARDLY_WORSE), 200),
        (Design("learned", LEARNED), 100),
        (Design("equal", THIRDS), 200),
        (Design("collapse", COLLAPSE), 100),
        (Design("collapse", COLLAPSE), 2000),
        (Design("clustered, skewed", HARDLY_WORSE, clustered=True), 500),
        (Design("clustered, skewed", HARDLY_WORSE, clustered=True), 5000),
        (Design("clustered, learned", LEARNED, clustered=True), 500),
        (Design("clustered binary, equal", EQUAL, clustered=True), 500),
        (Design("clustered binary, at the margin", AT_MARGIN, clustered=True), 1000),
    ],
    ids=lambda case: case.name if isinstance(case, Design) else str(case),
)
def test_the_bound_of_other_scores_covers_95_percent(design: Design, n: int) -> None:
    covered = coverage(design, n, REPETITIONS, DRAWS).ours
    assert 0.94 - NOISE <= covered <= 0.96 + NOISE


@pytest.mark.parametrize("law", [HARDLY_WORSE, LEARNED, EQUAL, AT_MARGIN])
@pytest.mark.parametrize("n", [50, 200])
def test_the_bound_of_few_clusters_covers_at_least_95_percent(law: Law, n: int) -> None:
    """Below some 60 clusters it covers too much: what they cannot have shown counts as the worst."""
    assert coverage(Design("few clusters", law, clustered=True), n, 400, DRAWS).ours >= 0.95 - 0.0125


def test_a_loss_of_whole_clusters_is_covered_but_for_the_steps_of_their_number() -> None:
    covered = lost_or_not(100)
    assert covered.mean() >= 0.94
    assert covered.min() >= 0.89


@pytest.mark.parametrize("discordant", [0.03, 0.07, 0.10])
def test_a_model_at_the_margin_is_seldom_kept(discordant: float) -> None:
    assert 0.02 <= kept_rate((0.03,) * TASKS, discordant, 10_000) <= 0.06
    assert kept_rate((0.12, *[0.0] * (TASKS - 1)), discordant, 10_000) <= 0.06
    assert kept_rate((0.06,) * TASKS, discordant, 10_000) <= 0.001


@pytest.mark.parametrize(("discordant", "least"), [(0.07, 0.93), (0.10, 0.85)])
def test_an_equal_model_is_mostly_kept(discordant: float, least: float) -> None:
    assert kept_rate((0.0,) * TASKS, discordant, 10_000) >= least
