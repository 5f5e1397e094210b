"""Can the scores of several models be compared at all? The gate's first rule; pure."""

from typing import TYPE_CHECKING, Any

from tasks.item_scores import ItemScores, Key, Scores
from tasks.records import EvalReport, RuleResult, Verdict
from tasks.sections import Gate

if TYPE_CHECKING:
    from numpy.typing import NDArray

GENERAL_METRIC = "acc"
SMOKE_METRICS = ("stops", "nonempty")
_SHOWN = 8


def integrity(section: Gate, reports: dict[str, EvalReport], scores: dict[str, Scores]) -> RuleResult:
    """FAIL if anything is missing, doubled, not finite or not the same for every model; INCONCLUSIVE if items are too few.

    Args:
        reports, scores: by role, of the models that were scored; base and candidate are among them.
    """
    base = scores["base"]
    target, general = (_count(scores["candidate"], suite) for suite in ("target", "general"))
    faults = _report_faults(reports, list(scores)) + _metric_faults(section, scores["candidate"])
    for role, table in scores.items():
        faults += [fault for key in sorted(table) for fault in _column_faults(role, key, table[key])]
        faults += [f"{role} lacks {'/'.join(key)}" for key in sorted(base.keys() - table.keys())]
        faults += [f"base lacks {'/'.join(key)} of {role}" for key in sorted(table.keys() - base.keys())]
        faults += [
            f"{role} and base have different items, clusters or direction in {'/'.join(key)}"
            for key in sorted(base.keys() & table.keys())
            if not _same_items(base[key], table[key])
        ]
    if faults:
        shown = "; ".join(faults[:_SHOWN]) + (f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")
        return _result("FAIL", f"the scores cannot be compared, so no other rule was applied: {shown}", target + general)
    least = (("target", target, section.min_target_items), ("general", general, section.min_general_items))
    few = [
        f"{found} {suite} items, wanted at least {wanted} (gate.min_{suite}_items)"
        for suite, found, wanted in least
        if found < wanted
    ]
    if few:
        return _result("INCONCLUSIVE", "too few items to judge: " + "; ".join(few), target + general)
    reason = f"{' and '.join(scores)} scored on the same {target} target and {general} general items, no score missing"
    return _result("PASS", reason, target + general)


def _result(verdict: Verdict, reason: str, n: int) -> RuleResult:
    return RuleResult(rule="integrity", verdict=verdict, value=None, lower=None, threshold=None, n=n, reason=reason)


def _report_faults(reports: dict[str, EvalReport], roles: list[str]) -> list[str]:
    faults = []
    for name in ("items_sha256", "dtype"):
        found = {role: getattr(reports[role], name) for role in roles}
        if len(set(found.values())) > 1:
            faults.append(f"{name} differs: " + ", ".join(f"{role} {str(value)[:12]}" for role, value in found.items()))
    return faults


def _metric_faults(section: Gate, candidate: Scores) -> list[str]:
    """Metrics that the rules need and the candidate lacks, as a whole or for some items of the suite (or of the general task)."""
    generals = sorted({task for suite, task, _ in candidate if suite == "general"})
    faults = [f"no {suite} task was scored" for suite in ("target", "general") if not _count(candidate, suite)]
    needed: list[tuple[str, str | None, str]] = [("target", None, metric) for metric in _needed(section)]
    needed += [("general", task, GENERAL_METRIC) for task in generals]
    for suite, task, metric in needed:
        found, wanted = _count(candidate, suite, task, metric), _count(candidate, suite, task)
        if found < wanted:
            where = f"{task or suite}/{metric}"
            faults.append(f"the metric {where} is missing" + (f" for {wanted - found} of {wanted} items" if found else ""))
    return faults


def _needed(section: Gate) -> list[str]:
    structure = [] if section.smoke.min_structure_rate is None else ["structure"]
    return [section.learned.metric, *SMOKE_METRICS, *structure]


def _column_faults(role: str, key: Key, scores: ItemScores) -> list[str]:
    import numpy as np

    name, faults = f"{role} {'/'.join(key)}", []
    if broken := int((~np.isfinite(scores.values)).sum()):
        faults.append(f"{name}: {broken} scores are not finite numbers")
    if twice := int((scores.items[1:] == scores.items[:-1]).sum()):
        faults.append(f"{name}: {twice} items are scored twice")
    return faults


def _same_items(one: ItemScores, other: ItemScores) -> bool:
    import numpy as np

    same = np.array_equal(one.items, other.items) and np.array_equal(one.clusters, other.clusters)
    return same and one.higher_is_better == other.higher_is_better


def _count(scores: Scores, suite: str, task: str | None = None, metric: str | None = None) -> int:
    """Different items of a suite, task or metric; all target tasks ask about the same items, each general task about its own."""
    import numpy as np

    names: dict[str, list[NDArray[Any]]] = {}
    for (kind, where, what), column in scores.items():
        if kind == suite and task in (None, where) and metric in (None, what):
            names.setdefault(where if suite == "general" else "", []).append(column.items)
    return sum(len(np.unique(np.concatenate(columns))) for columns in names.values())
