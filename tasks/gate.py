"""Judge the candidate: was the wanted behaviour learned, are general abilities kept, is it no worse than the champion?

    python -m tasks.gate        data/scores, data/reports/evaluate-*.json -> data/reports/gate.json

A refused candidate is a result: the stage exits with 0 and the decision says FAIL or INCONCLUSIVE. All rules must pass, each at
`gate.confidence`, so a bad model passes no more often than 1 - confidence (intersection-union test: no correction for several
rules is needed). The sources are in tasks/statistics.py.
"""

from collections.abc import Mapping, Sequence

from tasks.comparison import Comparison, compare, mean
from tasks.decision_log import judged_before, note, sketch
from tasks.errors import StageInputError
from tasks.evaluation_records import ChampionRecord, EvalReport, GateDecision, RuleResult, SuiteTask
from tasks.evaluation_sections import Gate
from tasks.figures import level
from tasks.files import sha256_file
from tasks.integrity import general_keys, integrity, keys_of
from tasks.item_scores import TARGET, TARGET_LOSS, Scores, read_scores, target_hashes
from tasks.params import Params
from tasks.paths import ROLES, Workspace
from tasks.process import stage_main
from tasks.slices import slices
from tasks.statistics import discordance, power_at_no_difference, standard_error

_MEANINGS = {
    "stops": "replies end by themselves",
    "nonempty": "replies are not empty",
    "no_repetition": "replies do not run in circles",
    "structure": "replies have the demanded structure",
}


def decide(
    section: Gate,
    reports: Mapping[str, EvalReport],
    scores: Mapping[str, Scores],
    versions: Mapping[str, str | None] | None = None,
    judged_before: int = 0,
) -> GateDecision:
    """Apply every rule. Pure: the same input gives the same decision, whatever the order of items.

    A rule on a difference is PASS if its lower bound is above the threshold, FAIL if already the point estimate is not,
    else INCONCLUSIVE. If the scores cannot be compared at all, `integrity` fails and is the only rule in the decision.

    Args:
        reports, scores: by role; those of the champion and of the best version are left out, or empty with no model digest, while
            there is none, and the best version's also where it is the champion.
        versions: what the registry calls champion and best version; for the record only.
        judged_before: other candidates that half of the target items or more have judged; only told, it decides nothing.

    Raises:
        StageInputError: base or candidate was not scored, so there is nothing to judge.
    """
    for role in ("base", "candidate"):
        if role not in reports or reports[role].model_digest is None or reports[role].items_sha256 is None:
            raise StageInputError(f"gate: the {role} was not scored; run the stage evaluate@{role}")
    scored = [role for role in ROLES if role in reports and reports[role].model_digest is not None]
    known = {role: scores.get(role, {}) for role in scored}
    rules = [integrity(section, reports, known)]
    comparable = rules[0].verdict != "FAIL"
    if comparable:
        rules += [*_differences(section, reports["candidate"].tasks, known), *_smoke(section, known["candidate"])]
        rules.append(_wear(section, judged_before))
    verdicts = {rule.verdict for rule in rules}
    champion = reports["champion"].model_digest if "champion" in scored else None
    named = versions or {}
    return GateDecision(
        verdict="FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS",
        rules=rules,
        candidate_digest=reports["candidate"].model_digest or "",
        base_digest=reports["base"].model_digest or "",
        champion_version=named.get("champion") if champion else None,
        champion_digest=champion,
        best_version=named.get("best" if "best" in scored else "champion") if champion else None,
        is_best=comparable and _is_best(section, rules),
        items_sha256=reports["candidate"].items_sha256 or "",
    )


def _differences(section: Gate, tasks: list[SuiteTask], scores: Mapping[str, Scores]) -> list[RuleResult]:
    """Every rule on the difference of the candidate to another model."""
    base, candidate = scores["base"], scores["candidate"]
    rules = [_learned(section, metric, tasks, base, candidate) for metric in section.learned]
    rules += _kept(section, tasks, base, candidate)
    better = section.champion.promote_if == "better"
    thresholds = {"champion": 0.0 if better else -section.champion.margin, "best": -section.best.margin}
    for role, threshold in thresholds.items():
        if role in scores:
            rules += [
                _against(section, role, metric, tasks, scores).result(f"{role}/{metric}", threshold) for metric in section.learned
            ]
    reference = "champion" if "champion" in scores else "base"
    sliced = next(
        (keys[0] for metric in section.learned if (keys := keys_of(metric, tasks))[0][1] in (TARGET, TARGET_LOSS)), None
    )
    return rules + (slices(section, candidate[sliced], scores[reference][sliced], reference) if sliced else [])


def _against(section: Gate, role: str, metric: str, tasks: list[SuiteTask], scores: Mapping[str, Scores]) -> Comparison:
    return compare(section, metric, keys_of(metric, tasks), scores["candidate"], scores[role], role)


def _learned(section: Gate, metric: str, tasks: list[SuiteTask], base: Scores, candidate: Scores) -> RuleResult:
    wanted = section.learned[metric]
    compared = compare(section, metric, keys_of(metric, tasks), candidate, base, "base")
    reached = compared.after >= wanted.floor if compared.higher_is_better else compared.after <= wanted.floor
    floor = f"; the floor {level(wanted.floor, compared.is_share)} is {'reached' if reached else 'not reached'}"
    result = compared.result(f"learned/{metric}", wanted.min_gain, floor)
    return result if reached else result.model_copy(update={"verdict": "FAIL"})


def _kept(section: Gate, tasks: list[SuiteTask], base: Scores, candidate: Scores) -> list[RuleResult]:
    keys = general_keys(tasks)
    metrics = {metric for _, _, metric in keys}
    pooled = compare(section, metrics.pop() if len(metrics) == 1 else "general suite", keys, candidate, base, "base")
    rules = [pooled.result("kept", -section.kept.margin, _power(pooled, section.kept.margin))]
    for key in keys:
        _, task, metric = key
        rules.append(compare(section, metric, [key], candidate, base, "base").result(f"kept/{task}", -section.kept.task_margin))
    return rules


def _power(compared: Comparison, margin: float) -> str:
    """How telling the suite is; clustered items count for less by their design effect."""
    import numpy as np

    n = len(compared.differences)
    share = sum(discordance(compared.differences)) / n
    single = standard_error(compared.differences, np.arange(n), compared.tasks)
    clustered = standard_error(compared.differences, compared.clusters, compared.tasks)
    design_effect = max(1.0, (clustered / single) ** 2) if single > 0 else 1.0
    power = power_at_no_difference(margin, n / design_effect, share, compared.confidence)
    often = f"{power * 100:.0f} % of the time"
    return f"; with {n} items and {share * 100:.1f} % discordant answers an unchanged model would pass {often}"


def _is_best(section: Gate, rules: Sequence[RuleResult]) -> bool:
    """Whether the candidate is at least as good, by the first metric of `learned`, as the best version so far."""
    first, values = next(iter(section.learned)), {rule.rule: rule.value for rule in rules}
    value = values.get(f"best/{first}", values.get(f"champion/{first}"))
    return value is None or value >= 0


def _smoke(section: Gate, candidate: Scores) -> list[RuleResult]:
    rules = []
    for metric, least in section.smoke.items():
        values = candidate["target", TARGET, metric].values
        rate, n = mean(values), len(values)
        meaning = _MEANINGS.get(metric)
        measured = f"{level(rate, True)} of {n} {meaning}" if meaning else f"{metric} {level(rate, True)} on {n} replies"
        rules.append(
            RuleResult(
                rule=f"smoke/{metric}",
                verdict="PASS" if rate >= least else "FAIL",
                unit="share",
                value=rate,
                lower=None,
                threshold=least,
                n=n,
                reason=f"{measured}, wanted {'all' if least == 1 else f'at least {level(least, True)}'}",
            )
        )
    return rules


def _wear(section: Gate, judged_before: int) -> RuleResult:
    reason = f"these target items have judged {judged_before} other candidates, of {section.shelf_life} that they are good for"
    if judged_before >= section.shelf_life:
        reason += "; they are worn, and what passes may have been fitted to them: add items, or take others (prepare.split_salt)"
    return RuleResult(
        rule="wear", verdict="PASS", unit="number", value=None, lower=None, threshold=None, n=judged_before, reason=reason
    )


def gate(section: Gate, workspace: Workspace) -> GateDecision:
    """Decide, and write data/reports/gate.json last.

    Raises:
        StageInputError: as `replay`.
    """
    decision = replay(section, workspace).write(workspace.record("gate"))
    note(workspace, decision, _items(workspace))
    return decision


def _items(workspace: Workspace) -> list[str]:
    """The sketch of the target items, which it is that candidates are fitted to."""
    return sketch(target_hashes(workspace.scores("candidate") / "items.parquet"))


def replay(section: Gate, workspace: Workspace) -> GateDecision:
    """Read reports and scores of every role, and decide; writes nothing.

    Raises:
        StageInputError: a record or a scores file is missing, or belongs to another one; the message names it.
    """
    reports: dict[str, EvalReport] = {}
    scores: dict[str, Scores] = {}
    for role in ROLES:
        record, table = workspace.record(f"evaluate@{role}"), workspace.scores(role) / "items.parquet"
        reports[role] = report = EvalReport.read(record)
        again = f"run the stage evaluate@{role} again"
        if report.role != role:
            raise StageInputError(f"{workspace.relative(record)}: is of the {report.role}, wanted of the {role}; {again}")
        if not table.is_file():
            raise StageInputError(f"{workspace.relative(table)}: missing; {again}")
        if (found := sha256_file(table)) != report.scores_sha256:
            wanted = (report.scores_sha256 or "none")[:12]
            raise StageInputError(
                f"{workspace.relative(table)}: found sha256 {found[:12]}, {workspace.relative(record)} says {wanted}; {again}"
            )
        scores[role] = read_scores(table)
    published = ChampionRecord.read(workspace.record("champion"))
    for role, digest in (("champion", published.digest), ("best", published.best_digest)):
        if digest != reports[role].model_digest:
            scored, current = (workspace.relative(workspace.record(stage)) for stage in (f"evaluate@{role}", "champion"))
            raise StageInputError(
                f"{scored}: is of {_short(reports[role].model_digest)}, {current} says {_short(digest)}; "
                f"run the stage evaluate@{role} again"
            )
    candidate = reports["candidate"]
    before = judged_before(workspace, _items(workspace), candidate.model_digest or "")
    return decide(section, reports, scores, {"champion": published.version, "best": published.best_version}, before)


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "no model"


def main() -> int:
    """Judge the candidate of a workspace."""

    def work(workspace: Workspace, params: Params) -> GateDecision:
        return gate(params.gate, workspace)

    return stage_main(__doc__, work)


if __name__ == "__main__":
    raise SystemExit(main())
