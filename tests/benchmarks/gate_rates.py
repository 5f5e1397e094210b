"""How often the gate errs, by simulation: its bounds keep their confidence, its rule `kept` its error rates; and its time.

.venv/bin/python tests/benchmarks/gate_rates.py        # about 10 minutes on one core

The peers are the normal paired interval that takes each item for independent, the same with the cluster-robust error, and, on
a few cells, scipy.stats.bootstrap by percentile. tests/integration/test_gate_rates.py is the same at reduced size.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from tasks.evaluation_records import EvalReport, SuiteTask
from tasks.gate import decide
from tasks.item_scores import ItemScores, Scores
from tasks.params import load_params
from tasks.paths import ROLES
from tasks.statistics import lower_bound

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(CONFIDENCE)
SIZES = {50: 10_000, 100: 10_000, 200: 6_000, 500: 6_000, 1000: 4_000, 2000: 4_000, 5000: 4_000}
"""Repetitions for each number of items."""
DRAWS = 1_000  # a tenth of what params.yaml has: each repetition has its own seed, so their noise does not add up
TASKS, TASK_ITEMS, MARGIN, TASK_MARGIN = 6, 150, 0.03, 0.12
SHARED = 0.5
"""Correlation of two items of one cluster."""


@dataclass(frozen=True, slots=True)
class Law:
    """What the difference of one item may be, and how often."""

    values: tuple[float, ...]
    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.dot(self.values, self.shares))


def binary(discordant: float, mean: float) -> Law:
    return Law((1.0, -1.0, 0.0), ((discordant + mean) / 2, (discordant - mean) / 2, 1 - discordant))


@dataclass(frozen=True, slots=True)
class Design:
    """Items whose differences follow a law; `clustered`: 1 to 6 of them belong together."""

    name: str
    law: Law
    clustered: bool = False

    def clusters(self, n: int) -> Any:
        if not self.clustered:
            return np.arange(n)
        sizes = np.random.default_rng(n).integers(1, 7, size=n)
        return np.repeat(np.arange(n), sizes)[:n]

    def samples(self, n: int, repetitions: int, seed: int) -> Any:
        """A row of differences for each repetition."""
        generator, shape = np.random.default_rng(seed), (repetitions, n)
        own = generator.choice(self.law.values, p=self.law.shares, size=shape)
        if not self.clustered:
            return own
        shared = generator.choice(self.law.values, p=self.law.shares, size=shape)[:, self.clusters(n)]
        return np.where(generator.random(shape) < SHARED**0.5, shared, own)


GRID = tuple(binary(q / 100, -loss / 100) for q in (5, 7, 10, 15) for loss in range(5))
EQUAL, AT_MARGIN = binary(0.07, 0.0), binary(0.10, -0.03)
HARDLY_WORSE = Law((0.0, 0.25, 0.5, -0.25, -0.5, -0.75, -1.0), (0.62, 0.14, 0.07, 0.08, 0.04, 0.02, 0.03))
LEARNED = Law((1.0, 0.75, 0.5, 0.25, 0.0, -0.25), (0.33, 0.2, 0.17, 0.1, 0.15, 0.05))
COLLAPSE = Law((0.0, 0.25, -0.25, -1.0), (0.8, 0.1, 0.07, 0.03))
THIRDS = Law((0.0, 1 / 3, -1 / 3, 2 / 3, -2 / 3, 1.0, -1.0), (0.5, 0.15, 0.15, 0.06, 0.06, 0.04, 0.04))
DESIGNS = (
    Design("quarters, hardly worse, skewness -1.3", HARDLY_WORSE),
    Design("quarters, learned, skewness -0.5", LEARNED),
    Design("quarters, seldom a collapse, skewness -3.7", COLLAPSE),
    Design("thirds, equal, no skewness", THIRDS),
    Design("clustered quarters, hardly worse", HARDLY_WORSE, clustered=True),
    Design("clustered quarters, learned", LEARNED, clustered=True),
    Design("clustered thirds, equal", THIRDS, clustered=True),
    Design("clustered binary, 7 % differ, equal", EQUAL, clustered=True),
    Design("clustered binary, 10 % differ, 3 points worse", AT_MARGIN, clustered=True),
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of repetitions in which the truth is not below the bound: ours, and two peers'."""

    ours: float
    robust: float
    ignoring_clusters: float
    repetitions: int

    @property
    def error(self) -> float:
        return math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / self.repetitions)


def coverage(design: Design, n: int, repetitions: int, draws: int = DRAWS) -> Coverage:
    rows, clusters, truth = design.samples(n, repetitions, seed=n), design.clusters(n), design.law.mean
    means = rows.mean(axis=1)
    above = 0
    for index in np.flatnonzero(means > truth):  # no bound exceeds the mean
        above += lower_bound(rows[index], clusters, confidence=CONFIDENCE, draws=draws, seed=int(index)) > truth
    return Coverage(
        1 - above / repetitions,
        float(np.mean(means - Z * _robust_errors(rows, clusters) <= truth)),
        float(np.mean(means - Z * _robust_errors(rows, np.arange(n)) <= truth)),
        repetitions,
    )


def _robust_errors(rows: Any, clusters: Any) -> Any:
    """Cluster-robust standard error of each row's mean (Miller 2024, arXiv 2411.00640)."""
    starts = np.unique(clusters, return_index=True)[1]
    residuals = np.add.reduceat(rows - rows.mean(axis=1, keepdims=True), starts, axis=1)
    return np.sqrt((residuals**2).sum(axis=1) * len(starts) / (len(starts) - 1)) / rows.shape[1]


def exact_coverage(law: Law, n: int) -> tuple[float, float]:
    """Without simulation, for binary scores of independent items: ours, and of the normal interval.

    The bound depends on the counts of better and worse alone, and rises with the first: where it passes the truth is bisected.
    """
    from scipy.stats import binom

    better, worse, truth = law.shares[0], law.shares[1], law.mean
    ours = normal = 0.0
    counts = np.arange(n + 1)
    for lost in range(*(int(binom.ppf(tail, n, worse)) + end for tail, end in ((1e-9, 0), (1 - 1e-9, 1)))):
        share = binom.pmf(lost, n, worse)
        least = bisect_left(range(n - lost + 1), True, key=lambda won: _bound_of_counts(won, lost, n) > truth + 1e-12)
        ours += share * binom.cdf(least - 1, n - lost, better / (1 - worse))
        won = counts[: n - lost + 1]
        mean = (won - lost) / n
        bounds = mean - Z * np.sqrt(((won + lost) / n - mean**2) / (n - 1))
        normal += share * binom.pmf(won, n - lost, better / (1 - worse))[bounds <= truth + 1e-12].sum()
    return ours, normal


def lost_or_not(clusters: int) -> Any:
    """Exact coverage where a cluster either loses all or stays as it was, for 2 to 20 expected losses.

    Half a score is lost and is the worst, so that scores are not binary.
    """
    from scipy.stats import binom

    values = np.full((60, clusters), -0.5) * (np.arange(clusters) < np.arange(60)[:, None])
    options: dict[str, Any] = {"confidence": CONFIDENCE, "draws": 10_000, "seed": 7, "worst": -0.5}
    bounds = np.array([lower_bound(row, np.arange(clusters), **options) for row in values])
    shares = np.arange(2, 20, 0.1) / clusters
    return np.array([binom.pmf(np.arange(60), clusters, share)[bounds <= -0.5 * share].sum() for share in shares])


@cache
def _bound_of_counts(better: int, worse: int, n: int) -> float:
    """Of independent binary scores, which neither their order nor their tasks change."""
    row = np.repeat([1.0, -1.0, 0.0], [better, worse, n - better - worse])
    return lower_bound(row, np.arange(n), confidence=CONFIDENCE, draws=DRAWS, seed=1)


def scipy_coverage(design: Design, n: int, repetitions: int) -> float:
    from scipy.stats import bootstrap

    covered = 0
    for index, row in enumerate(design.samples(n, repetitions, seed=1)):
        found = bootstrap(
            (row,), np.mean, confidence_level=CONFIDENCE, alternative="greater", n_resamples=DRAWS, method="percentile",
            rng=np.random.default_rng(index),
        )  # fmt: skip
        covered += bool(found.confidence_interval.low <= design.law.mean)
    return covered / repetitions


def kept_rate(losses: tuple[float, ...], discordant: float, repetitions: int, seed: int = 1) -> float:
    """How often a model passes `kept`, pooled and task by task, that truly lost `losses`, one for each task, against base."""
    generator = np.random.default_rng(seed)
    laws = [binary(max(discordant, loss), -loss) for loss in losses]
    counts = np.stack([generator.multinomial(TASK_ITEMS, law.shares, size=repetitions)[:, :2] for law in laws])
    passes = np.array([_bound_of_counts(*pair, TASK_ITEMS * len(laws)) > -MARGIN for pair in counts.sum(axis=0).tolist()])
    for task in counts:
        passes &= [_bound_of_counts(*pair, TASK_ITEMS) > -TASK_MARGIN for pair in task.tolist()]
    return float(passes.mean())


def seconds_of_rule(law: Law, clusters: int, n: int = 10_000) -> float:
    """Processor seconds of all bounds of one rule over six tasks: the pooled one and one a task, 10,000 draws each."""
    generator = np.random.default_rng(1)
    values = generator.choice(law.values, p=law.shares, size=n)
    names, tasks = np.arange(n) * clusters // n, np.arange(n) * TASKS // n
    options: dict[str, Any] = {"confidence": CONFIDENCE, "draws": 10_000, "seed": 7}
    began = time.process_time()
    lower_bound(values, names, tasks, **options)
    for task in range(TASKS):
        lower_bound(values[tasks == task], names[tasks == task], **options)
    return time.process_time() - began


def seconds_of_decision(law: Law, target: int = 2_000, general: int = 8_000) -> float:
    """Processor seconds of every rule of params.yaml on 10,000 items of base, champion, best version and candidate."""
    generator = np.random.default_rng(1)

    def column(n: int, name: str, values: Any) -> ItemScores:
        slices = {"topic": [f"{index % 40}" for index in range(n)], "length": ["long", "short"] * (n // 2)}
        names = [f"{name} {index}" for index in range(n)]
        return ItemScores.of(names, names, values, slices=slices if name == "target" else {})

    def scored(level: float) -> Scores:
        replies = np.clip(level + generator.choice(law.values, p=law.shares, size=target) / 4, 0, 1)
        found = {("target", "target", "guideline_score"): column(target, "target", replies)}
        found |= {("target", "target", name): column(target, "target", np.ones(target)) for name in section.smoke}
        each = general // TASKS
        return found | {
            ("general", f"task {task}", "acc"): column(each, f"{task}", generator.random(each) < 0.5) for task in range(TASKS)
        }

    section = load_params(Path(__file__).parents[2] / "params.yaml").gate
    options: dict[str, Any] = {"num_fewshot": None, "apply_chat_template": False, "limit": None, "n_items": general // TASKS}
    tasks = [
        SuiteTask(suite="general", entry="ours", task=f"task {task}", metric="acc", version="1", **options)
        for task in range(TASKS)
    ]
    scores = {role: scored(level) for role, level in (("base", 0.3), ("champion", 0.7), ("best", 0.7), ("candidate", 0.7))}
    alike: dict[str, Any] = {"items_sha256": "i", "scores_sha256": None, "dtype": "float32", "metrics": [], "environment": None}
    reports = {role: EvalReport.model_validate(alike | {"role": role, "model_digest": role, "tasks": tasks}) for role in ROLES}
    began = time.process_time()
    decision = decide(section, reports, scores)
    seconds = time.process_time() - began
    assert len(decision.rules) > 15, decision.reasons()
    return seconds


def _timed(measure: Callable[[], None]) -> None:
    began = time.process_time()
    measure()
    print(f"({time.process_time() - began:,.0f} s)\n", flush=True)


def print_exact() -> None:
    print(f"{'exact coverage of binary scores, %':46} items   ours  normal")
    for name, laws in (
        ("7 % differ, equal", (EQUAL,)),
        ("10 % differ, 3 points worse", (AT_MARGIN,)),
        ("5 to 15 % differ, 0 to 4 points worse, mean", GRID),
        ("5 to 15 % differ, 0 to 4 points worse, lowest", GRID),
    ):
        for n in SIZES:
            found = np.array([exact_coverage(law, n) for law in laws])
            ours, normal = (found.min(axis=0) if name.endswith("lowest") else found.mean(axis=0)) * 100
            print(f"{name:46} {n:5}  {ours:5.1f}  {normal:6.1f}", flush=True)
    for clusters in (100, 500):
        covered = lost_or_not(clusters) * 100
        text = f"{covered.mean():.1f} on average, {covered.min():.1f} at worst"
        print(f"clusters that lose all or nothing, 2 to 20 expected losses, {clusters} clusters: {text}")


def print_coverage() -> None:
    print(f"{'coverage by simulation, %':46} items clusters   ours  +-    robust  ignoring clusters", flush=True)
    for design in DESIGNS:
        for n, repetitions in SIZES.items():
            found, clusters = coverage(design, n, repetitions), len(np.unique(design.clusters(n)))
            ours = f"{found.ours * 100:5.1f} {found.error * 100:4.1f}"
            peers = f"{found.robust * 100:6.1f}  {found.ignoring_clusters * 100:6.1f}"
            print(f"{design.name:46} {n:5} {clusters:8}  {ours}  {peers}", flush=True)


def print_scipy() -> None:
    for design in (DESIGNS[0], DESIGNS[2], DESIGNS[4]):
        found = ", ".join(f"{scipy_coverage(design, n, 1000) * 100:.1f} % of {n}" for n in (50, 200))
        print(f"scipy.stats.bootstrap, percentile, {design.name}: {found} items (+- 0.7)", flush=True)


def print_rates() -> None:
    even, one = (MARGIN,) * TASKS, (MARGIN * TASKS,) + (0.0,) * (TASKS - 1)
    cases = {
        "equal": (0.0,) * TASKS,
        "3 points worse on each task": even,
        "18 points worse on one task, so 3 pooled": one,
        "12 points worse on one task, so 2 pooled": (TASK_MARGIN,) + (0.0,) * (TASKS - 1),
        "4.5 points worse on each task": (0.045,) * TASKS,
    }
    print(f"passes of `kept`, {TASKS} tasks of {TASK_ITEMS} items, margins of 3 and 12 points (+- 0.1 where 5 %)")
    for name, losses in cases.items():
        rates = ", ".join(
            f"{kept_rate(losses, q, 50_000) * 100:5.1f} % at {q * 100:.0f} % differ" for q in (0.03, 0.07, 0.10, 0.15)
        )
        print(f"{name:44} {rates}", flush=True)


def print_times() -> None:
    for name, law, clusters in (
        ("binary, each item a cluster", AT_MARGIN, 10_000),
        ("binary, 2,857 clusters", AT_MARGIN, 2_857),
        ("quarters, each item a cluster", HARDLY_WORSE, 10_000),
        ("quarters, 1,000 clusters, the most that are drawn", HARDLY_WORSE, 1_000),
    ):
        print(f"pooled and six bounds of 10,000 items, {name}: {seconds_of_rule(law, clusters):.2f} s of processor", flush=True)
    print(
        f"every rule, 2,000 target and 8,000 general items, four models: {seconds_of_decision(HARDLY_WORSE):.2f} s of processor"
    )


def main() -> None:
    for measure in (print_times, print_rates, print_exact, print_scipy, print_coverage):
        _timed(measure)


if __name__ == "__main__":
    main()
