"""How often the gate errs, by simulation: its bounds keep their confidence, its rules their error rates."""

from typing import Any

import numpy as np
import pytest

from tasks.statistics import discordance, lower_bound, tango_lower_bound

OPTIONS: dict[str, Any] = {"confidence": 0.95, "draws": 1000, "seed": 7}


def outcomes(generator: np.random.Generator, shape: tuple[int, ...], discordant: float, mean: float) -> Any:
    return generator.choice([1.0, -1.0, 0.0], p=[(discordant + mean) / 2, (discordant - mean) / 2, 1 - discordant], size=shape)


@pytest.mark.parametrize(
    ("n", "discordant", "mean"), [(40, 0.2, 0.0), (80, 0.1, -0.03), (150, 0.05, -0.03), (300, 0.5, 0.2), (300, 0.98, 0.95)]
)
def test_the_bound_is_above_the_truth_at_most_about_5_percent(n: int, discordant: float, mean: float) -> None:
    samples = np.sort(outcomes(np.random.default_rng(8), (800, n), discordant, mean), axis=1)
    distinct, counts = np.unique(samples, axis=0, return_counts=True)
    above = 0
    for row, count in zip(distinct, counts, strict=True):
        if tango_lower_bound(*discordance(row), n, 0.95) > mean:  # an upper limit of the bound, and cheaper
            above += int(count) * (lower_bound(row, np.arange(n), **OPTIONS) > mean)
    assert 0 < above / 800 <= 0.075


def test_the_bound_covers_clustered_fractions() -> None:
    generator, above = np.random.default_rng(9), 0
    for _ in range(300):
        values = np.repeat(generator.normal(0, 0.2, 100), 3) + generator.normal(0, 0.2, 300)
        above += lower_bound(np.clip(values, -1, 1), np.repeat(np.arange(100), 3), **OPTIONS) > 0
    assert 0 < above / 300 <= 0.08


@pytest.mark.parametrize(("true_loss", "least", "most"), [(0.0, 0.4, 0.75), (0.03, 0.01, 0.08), (0.06, 0.0, 0.01)])
def test_a_model_at_the_margin_is_seldom_kept_and_an_equal_one_often(true_loss: float, least: float, most: float) -> None:
    """Three tasks of 120 items, a margin of 3 points, a tenth of the answers changed."""
    generator, passed, runs = np.random.default_rng(3), 0, 100
    names, tasks = np.arange(360), np.repeat(["facts", "grammar", "meaning"], 120)
    for _ in range(runs):
        differences = outcomes(generator, (360,), 0.1, -true_loss)
        passed += lower_bound(differences, names, tasks, **OPTIONS) > -0.03
    assert least <= passed / runs <= most
