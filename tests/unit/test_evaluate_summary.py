"""From single scores to the figures of a report."""

import math
import random
import statistics

import pytest

from tasks.errors import EvalError
from tasks.evaluate import summarise
from tasks.evaluation_records import Metric
from tasks.item_scores import Item

Key = tuple[str, str, str]


def items(suite: str, task: str, metric: str, values: list[float], better: bool = True) -> list[Item]:
    return [
        Item(suite, task, f"{number}", f"{number:016x}", f"{number}", "", "", "", metric, better, value)
        for number, value in enumerate(values)
    ]


def summary(*groups: list[Item]) -> dict[Key, Metric]:
    found = summarise([item for group in groups for item in group])
    return {(metric.suite, metric.task, metric.metric): metric for metric in found}


def test_a_mean_comes_with_its_standard_error_and_count() -> None:
    values = [0.0, 0.5, 1.0, 1.0]
    (metric,) = summary(items("target", "target", "structure", values)).values()
    assert (metric.value, metric.n, metric.higher_is_better) == (0.625, 4, True)
    assert metric.stderr == pytest.approx(statistics.stdev(values) / 2, abs=1e-6)


@pytest.mark.parametrize(("values", "value"), [([0.25], 0.25), ([1.0, 1.0, 1.0], 1.0)])
def test_one_item_or_equal_ones_show_no_spread(values: list[float], value: float) -> None:
    (metric,) = summary(items("target", "target", "stops", values)).values()
    assert (metric.value, metric.stderr, metric.n) == (value, 0.0, len(values))


def test_tasks_and_metrics_are_kept_apart_and_only_general_ones_are_pooled_too() -> None:
    found = summary(
        items("general", "facts", "acc", [1, 1, 1]),
        items("general", "grammar", "acc", [0]),
        items("general", "grammar", "perplexity", [8.0, 4.0], better=False),
        items("target", "target", "structure", [1.0, 0.0]),
        items("target", "target_loss", "reply_loss", [2.0], better=False),
    )
    assert {key: (metric.value, metric.n, metric.higher_is_better) for key, metric in found.items()} == {
        ("general", "facts", "acc"): (1.0, 3, True),
        ("general", "grammar", "acc"): (0.0, 1, True),
        ("general", "general", "acc"): (0.75, 4, True),  # over items, not over tasks
        ("general", "grammar", "perplexity"): (6.0, 2, False),
        ("general", "general", "perplexity"): (6.0, 2, False),
        ("target", "target", "structure"): (0.5, 2, True),
        ("target", "target_loss", "reply_loss"): (2.0, 1, False),
    }
    assert found["general", "general", "acc"].stderr == pytest.approx(statistics.stdev([1, 1, 1, 0]) / 2, abs=1e-6)


def test_the_order_of_items_does_not_matter() -> None:
    given = items("general", "facts", "acc", [1, 0, 1, 1, 0]) + items("target", "target", "structure", [0.5, 1.0])
    mixed = random.Random(0).sample(given, len(given))
    assert mixed != given
    assert summarise(mixed) == summarise(given)


def test_no_items_no_metrics() -> None:
    assert summarise([]) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_by_name(value: float) -> None:
    with pytest.raises(EvalError, match=f"facts item 2: acc is {value}; the model's output is broken"):
        summarise(items("general", "facts", "acc", [1.0, 0.0, value, 1.0]))
