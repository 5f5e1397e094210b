"""Can the scores of several models be compared at all? The gate's first rule; pure."""

from collections.abc import Mapping, Sequence

from tasks.evaluation_records import EvalReport, RuleResult, SuiteTask, Verdict, limited
from tasks.evaluation_sections import REPLY_LOSS, Gate
from tasks.item_scores import TARGET, TARGET_LOSS, ItemScores, Key, Scores

_SHOWN = 8


def keys_of(name: str, tasks: Sequence[SuiteTask]) -> list[Key]:
    """Where the scores of a metric of `gate.learned` are: of the test split, or of the target task or group of that name."""
    if named := [("target", task.task, task.metric) for task in tasks if (task.suite, task.entry) == ("target", name)]:
        return named
    return [("target", TARGET_LOSS if name == REPLY_LOSS else TARGET, name)]


def general_keys(tasks: Sequence[SuiteTask]) -> list[Key]:
    """Of each general task the metric that is compared."""
    return sorted(("general", task.task, task.metric) for task in tasks if task.suite == "general")


def integrity(section: Gate, reports: Mapping[str, EvalReport], scores: Mapping[str, Scores]) -> RuleResult:
    """FAIL if anything is missing, doubled, not finite or not the same for every model; INCONCLUSIVE if items are too few.

    Args:
        reports, scores: by role, of the models that were scored; base and candidate are among them.
    """
    base, tasks = scores["base"], reports["candidate"].tasks
    target = _count(scores["candidate"], [(kind, task, metric) for kind, task, metric in scores["candidate"] if task == TARGET])
    general = sum(_count(scores["candidate"], [key]) for key in general_keys(tasks))
    faults = _report_faults(reports, list(scores)) + _metric_faults(section, tasks, scores["candidate"])
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
    reason = (
        f"{' and '.join(scores)} scored on the same {target} target and {general} general items, no score missing{limited(tasks)}"
    )
    return _result("PASS", reason, target + general)


def _result(verdict: Verdict, reason: str, n: int) -> RuleResult:
    return RuleResult(
        rule="integrity", verdict=verdict, unit="number", value=None, lower=None, threshold=None, n=n, reason=reason
    )


_OTHER_PROMPTS = (
    "models with another tokenizer or chat template read other prompts and cannot be compared: publish them apart, by another "
    "push.path or push.repo_id"
)
_SCORE_AGAIN = "score them alike: `dvc repro --force --single-item evaluate@ROLE` for each that differs, then run again"


def _report_faults(reports: Mapping[str, EvalReport], roles: list[str]) -> list[str]:
    faults = []
    conditions = {role: _conditions(reports[role]) for role in roles}
    for name in dict.fromkeys(name for found in conditions.values() for name in found):
        found = {role: conditions[role].get(name) for role in roles}
        if len(set(found.values())) > 1:
            differs = f"{name} differs: " + ", ".join(f"{role} {str(value)[:12]}" for role, value in found.items())
            faults.append(f"{differs}; {_OTHER_PROMPTS if name == 'items_sha256' else _SCORE_AGAIN}")
    return faults


def _conditions(report: EvalReport) -> dict[str, str | None]:
    """What must be the same for every model, or a difference of scores is not one of the models."""
    where = report.environment
    return {
        "items_sha256": report.items_sha256,
        "dtype": report.dtype,
        **({"device": where.device, **where.scoring_packages} if where else {}),
    }


def _metric_faults(section: Gate, tasks: Sequence[SuiteTask], candidate: Scores) -> list[str]:
    """Metrics that the rules need and the candidate lacks, as a whole or for some items of their task."""
    general = general_keys(tasks)
    faults = [] if general else ["no general task was scored"]
    learned = [key for name in section.learned for key in keys_of(name, tasks)]
    for key in [*learned, *(("target", TARGET, metric) for metric in section.smoke), *general]:
        together = (TARGET, TARGET_LOSS) if key[1] in (TARGET, TARGET_LOSS) else key[1:2]
        same_task = [other for other in candidate if other[0] == key[0] and other[1] in together]
        found, wanted = _count(candidate, [key]), _count(candidate, same_task)
        if found < wanted or not found:
            where = "/".join(key[1:])
            faults.append(f"the metric {where} is missing" + (f" for {wanted - found} of {wanted} items" if found else ""))
        elif key[2] != REPLY_LOSS and not _is_share(candidate[key]):
            faults.append(f"{'/'.join(key[1:])} is no share between 0 and 1, so no margin fits it")
    return faults


def _is_share(scores: ItemScores) -> bool:
    return not bool(((scores.values < 0) | (scores.values > 1)).any())


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


def _count(scores: Scores, keys: Sequence[Key]) -> int:
    """Different items that are scored by any of the metrics of one task."""
    import numpy as np

    columns = [scores[key].items for key in keys if key in scores]
    return len(np.unique(np.concatenate(columns))) if columns else 0
