"""Candidate against another model on the same items: one comparison in figures and in words. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.evaluation_records import RuleResult, Verdict
from tasks.evaluation_sections import Gate
from tasks.figures import change, level, unit
from tasks.item_scores import Key, Scores
from tasks.statistics import lower_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIGITS = 12
"""Decimals kept before a comparison, so that rounding noise neither passes a tie nor fails a floor that is met exactly."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences are turned so that more is better; `before` and `after` are means as they are."""

    metric: str
    reference: str
    before: float
    after: float
    differences: "NDArray[Any]"
    clusters: "NDArray[Any]"
    tasks: "NDArray[Any]"
    is_share: bool
    higher_is_better: bool
    value: float
    lower: float
    confidence: float

    def measured(self) -> str:
        """As in "acc -0.4 pp against base (71.2 % -> 70.8 %) on 900 items; with 95 % confidence at least -1.6 pp"."""
        return (
            f"{self.metric} {self.change(self.value)} against {self.reference} "
            f"({level(self.before, self.is_share)} -> {level(self.after, self.is_share)}) on {len(self.differences)} items; "
            f"with {self.confidence * 100:g} % confidence at least {self.change(self.lower)}"
        )

    def change(self, value: float) -> str:
        return change(value, self.is_share)

    def verdict(self, threshold: float) -> Verdict:
        return "PASS" if self.lower > threshold else "FAIL" if self.value <= threshold else "INCONCLUSIVE"

    def wish(self, threshold: float) -> str:
        """What was wanted, and what would settle an open verdict: the bound's distance shrinks with the root of n."""
        text = f", wanted more than {self.change(round(threshold, _DIGITS) + 0.0)}"
        if self.verdict(threshold) == "FAIL":
            return f"{text}: missed already by the measured difference"
        if self.verdict(threshold) == "INCONCLUSIVE":
            needed = len(self.differences) * ((self.value - self.lower) / (self.value - threshold)) ** 2
            return f"{text}: too few items to tell; if the difference stays, some {needed:,.0f} items would"
        return text

    def result(self, rule: str, threshold: float, more: str = "") -> RuleResult:
        return RuleResult(
            rule=rule,
            verdict=self.verdict(threshold),
            unit=unit(self.is_share),
            value=self.value,
            lower=self.lower,
            threshold=threshold,
            n=len(self.differences),
            reason=self.measured() + self.wish(threshold) + more,
        )


def compare(section: Gate, metric: str, keys: Sequence[Key], candidate: Scores, reference: Scores, name: str) -> Comparison:
    """Pair the candidate's scores with those of the reference `name`; several tasks are strata of one mean over all items."""
    import numpy as np

    pairs = [(candidate[key], reference[key]) for key in keys]
    ours, theirs = (np.concatenate([pair[side].values for pair in pairs]) for side in (0, 1))
    differences = np.concatenate([(one.values - other.values) * (1 if one.higher_is_better else -1) for one, other in pairs])
    clusters = np.concatenate([one.clusters for one, _ in pairs])
    tasks = np.repeat([task for _, task, _ in keys], [len(one.items) for one, _ in pairs])
    is_share, worst = scale(ours, theirs)
    lower = lower_bound(
        differences,
        clusters,
        tasks,
        confidence=section.confidence,
        draws=section.bootstrap_draws,
        seed=section.seed,
        worst=worst,
    )
    return Comparison(
        metric=metric,
        reference=name,
        before=mean(theirs),
        after=mean(ours),
        differences=differences,
        clusters=clusters,
        tasks=tasks,
        is_share=is_share,
        higher_is_better=all(one.higher_is_better for one, _ in pairs),
        value=mean(differences),
        lower=round(lower, _DIGITS),
        confidence=section.confidence,
    )


def scale(ours: "NDArray[Any]", theirs: "NDArray[Any]") -> tuple[bool, float]:
    """Whether both are shares, and the least difference that one item can show: -1 of shares, else the widest gap seen."""
    low, high = (float(extreme) for extreme in (min(ours.min(), theirs.min()), max(ours.max(), theirs.max())))
    is_share = low >= 0 and high <= 1
    return is_share, -1.0 if is_share else low - high


def mean(values: "NDArray[Any]") -> float:
    return round(float(values.mean()), _DIGITS)
