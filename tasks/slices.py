"""Parts of the target suite in which the candidate surely lost, which the mean over all would hide. Pure."""

from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.comparison import mean, scale
from tasks.evaluation_records import RuleResult
from tasks.evaluation_sections import Gate
from tasks.figures import change, unit
from tasks.item_scores import ItemScores
from tasks.statistics import lower_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Slice(NamedTuple):
    """One value of a dimension, as in `topic` refunds, with the differences of its items."""

    name: str
    differences: "NDArray[Any]"
    clusters: "NDArray[Any]"

    @property
    def change(self) -> float:
        return mean(self.differences)


def slices(section: Gate, candidate: ItemScores, reference: ItemScores, name: str) -> list[RuleResult]:
    """One rule a dimension of `gate.slices.by`: FAIL where a slice lost more than the margin, and surely so.

    Slices are small, so it is loss that must be shown here, not its absence: the upper bound of the difference must lie below 0.
    It has the confidence of 1 - (1 - confidence) / k for k slices in all, so that a candidate without any loss is stopped no more
    often than 1 - confidence (Bonferroni).

    Args:
        candidate, reference: one metric of the same items; `name` is that of the reference.
    """
    wanted = section.slices
    is_share, worst = scale(candidate.values, reference.values)
    found = {dimension: _slices(candidate, reference, dimension) for dimension in wanted.by}
    judged = {dimension: [one for one in parts if len(one.differences) >= wanted.min_items] for dimension, parts in found.items()}
    # A dimension with one slice says what the mean over all says already.
    judged = {dimension: parts for dimension, parts in judged.items() if len(found[dimension]) > 1}
    strict = 1 - (1 - section.confidence) / max(1, sum(map(len, judged.values())))
    rules = []
    for dimension, parts in judged.items():
        lost = [one for one in parts if one.change <= -wanted.margin and _upper(section, one, strict, worst) < 0]
        few = len(found[dimension]) - len(parts)
        rules.append(_rule(section, dimension, parts, lost, few, name, is_share))
    return rules


def _slices(candidate: ItemScores, reference: ItemScores, dimension: str) -> list[_Slice]:
    import numpy as np

    differences = (candidate.values - reference.values) * (1 if candidate.higher_is_better else -1)
    values = candidate.slices[dimension]
    named = [value for value in np.unique(values) if value]
    return [_Slice(str(value), differences[values == value], candidate.clusters[values == value]) for value in named]


def _upper(section: Gate, one: _Slice, confidence: float, worst: float) -> float:
    return -lower_bound(
        -one.differences,
        one.clusters,
        confidence=confidence,
        draws=section.bootstrap_draws,
        seed=section.seed,
        worst=worst,
    )


def _rule(
    section: Gate, dimension: str, parts: list[_Slice], lost: list[_Slice], few: int, name: str, is_share: bool
) -> RuleResult:
    worst = min(parts, key=lambda one: (one.change, one.name), default=None)
    told = lost or ([worst] if worst else [])
    shown = ", ".join(f"{one.name} {change(one.change, is_share)} on {len(one.differences)} items" for one in told)
    count = f"{len(lost) or 'none'} of {len(parts)} slices surely lost more than {change(section.slices.margin, is_share)[1:]}"
    least = section.slices.min_items
    small = f"; {few} more have fewer than {least} items and are not judged" if few else ""
    return RuleResult(
        rule=f"slices/{dimension}",
        verdict="FAIL" if lost else "PASS",
        unit=unit(is_share),
        value=worst.change if worst else None,
        lower=None,
        threshold=-section.slices.margin,
        n=sum(len(one.differences) for one in parts),
        reason=f"{count} against {name}{f'; the worst: {shown}' if shown else ''}{small}",
    )
