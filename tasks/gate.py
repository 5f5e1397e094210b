"""Judge the candidate: was the wanted behaviour learned, are general abilities kept, is it no worse than the champion?

    python -m tasks.gate        data/scores, data/reports/evaluate-*.json -> data/reports/gate.json

A refused candidate is a result: the stage exits with 0 and the decision says FAIL or INCONCLUSIVE. All rules must pass, each at
`gate.confidence`, so a bad model passes no more often than 1 - confidence (intersection-union test: no correction for several
rules is needed). The sources are in tasks/statistics.py.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.decision_log import judged_before, note
from tasks.errors import StageInputError
from tasks.files import sha256_file
from tasks.integrity import GENERAL_METRIC, integrity
from tasks.item_scores import Scores, read_scores
from tasks.params import Params
from tasks.paths import ROLES, Workspace
from tasks.process import stage_main
from tasks.records import ChampionRecord, EvalReport, GateDecision, RuleResult, Verdict
from tasks.sections import Gate
from tasks.statistics import discordance, lower_bound, power_at_no_difference, standard_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIGITS = 12
"""Decimals kept before a comparison, so that rounding noise neither passes a tie nor fails a floor that is met exactly."""


def decide(
    section: Gate,
    reports: dict[str, EvalReport],
    scores: dict[str, Scores],
    champion_version: str | None = None,
    judged_before: int = 0,
) -> GateDecision:
    """Apply every rule. Pure: the same input gives the same decision, whatever the order of items.

    A rule on a difference is PASS if its lower bound is above the threshold, FAIL if already the point estimate is not,
    else INCONCLUSIVE. If the scores cannot be compared at all, `integrity` fails and is the only rule in the decision.

    Args:
        reports, scores: by role; the champion's are left out, or empty with no model digest, while nothing is published.
        champion_version: what the registry calls the champion; for the record only.
        judged_before: other candidates that the same items have judged; only told, it decides nothing.

    Raises:
        StageInputError: base or candidate was not scored, so there is nothing to judge.
    """
    for role in ("base", "candidate"):
        if role not in reports or reports[role].model_digest is None or reports[role].items_sha256 is None:
            raise StageInputError(f"gate: the {role} was not scored; run the stage evaluate@{role}")
    scored = [role for role in ROLES if role in reports and reports[role].model_digest is not None]
    rules = [integrity(section, reports, {role: scores.get(role, {}) for role in scored})]
    if rules[0].verdict != "FAIL":
        base, candidate = scores["base"], scores["candidate"]
        rules += [_learned(section, base, candidate), *_kept(section, base, candidate)]
        if "champion" in scored:
            rules.append(_champion(section, scores["champion"], candidate))
        rules += [*_smoke(section, candidate), _wear(section, judged_before)]
    verdicts = {rule.verdict for rule in rules}
    champion = reports["champion"].model_digest if "champion" in scored else None
    return GateDecision(
        verdict="FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS",
        rules=rules,
        candidate_digest=reports["candidate"].model_digest or "",
        base_digest=reports["base"].model_digest or "",
        champion_version=champion_version if champion else None,
        champion_digest=champion,
        items_sha256=reports["candidate"].items_sha256 or "",
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """One metric over all tasks of a suite; a cluster belongs to one task."""

    tasks: "NDArray[Any]"
    clusters: "NDArray[Any]"
    values: "NDArray[Any]"
    higher_is_better: bool
    is_share: bool

    def mean(self) -> float:
        return round(float(self.values.mean()), _DIGITS)


def _pool(scores: Scores, suite: str, metric: str, task: str | None = None) -> _Pool:
    import numpy as np

    parts = {key[1]: scores[key] for key in sorted(scores) if (key[0], key[2]) == (suite, metric) and task in (None, key[1])}
    values = np.concatenate([part.values for part in parts.values()])
    return _Pool(
        tasks=np.repeat(list(parts), [len(part.items) for part in parts.values()]),
        clusters=np.concatenate([part.clusters for part in parts.values()]),
        values=values,
        higher_is_better=all(part.higher_is_better for part in parts.values()),
        is_share=bool(((values >= 0) & (values <= 1)).all()),
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Candidate against a reference on the same items; differences are turned so that more is better."""

    metric: str
    reference: str
    before: float
    after: float
    differences: "NDArray[Any]"
    clusters: "NDArray[Any]"
    tasks: "NDArray[Any]"
    is_share: bool
    value: float
    lower: float
    confidence: float

    def measured(self) -> str:
        """As in "acc -0.4 pp against base (71.2 % -> 70.8 %) on 900 items; with 95 % confidence at least -1.6 pp"."""
        return (
            f"{self.metric} {self.change(self.value)} against {self.reference} "
            f"({_level(self.before, self.is_share)} -> {_level(self.after, self.is_share)}) on {len(self.differences)} items; "
            f"with {self.confidence * 100:g} % confidence at least {self.change(self.lower)}"
        )

    def change(self, value: float) -> str:
        return f"{value * 100:+.1f} pp" if self.is_share else f"{value:+.3f}"

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
        reason = self.measured() + self.wish(threshold) + more
        return _rule(rule, self.verdict(threshold), reason, len(self.differences), self.value, self.lower, threshold)


def _compare(section: Gate, reference: str, ours: _Pool, theirs: _Pool, metric: str) -> _Comparison:
    differences = (ours.values - theirs.values) * (1 if ours.higher_is_better else -1)
    is_share = ours.is_share and theirs.is_share
    both = (float(min(ours.values.min(), theirs.values.min())), float(max(ours.values.max(), theirs.values.max())))
    lower = lower_bound(
        differences,
        ours.clusters,
        ours.tasks,
        confidence=section.confidence,
        draws=section.bootstrap_draws,
        seed=section.seed,
        worst=-1.0 if is_share else both[0] - both[1],  # an unbounded metric: the widest gap seen stands for the worst
    )
    value = round(float(differences.mean()), _DIGITS)
    return _Comparison(
        metric, reference, theirs.mean(), ours.mean(), differences, ours.clusters, ours.tasks, is_share,
        value, round(lower, _DIGITS), section.confidence,
    )  # fmt: skip


def _learned(section: Gate, base: Scores, candidate: Scores) -> RuleResult:
    wanted = section.learned
    ours = _pool(candidate, "target", wanted.metric)
    compared = _compare(section, "base", ours, _pool(base, "target", wanted.metric), wanted.metric)
    reached = compared.after >= wanted.floor if ours.higher_is_better else compared.after <= wanted.floor
    floor = f"; the floor {_level(wanted.floor, compared.is_share)} is {'reached' if reached else 'not reached'}"
    result = compared.result("learned", wanted.min_gain, floor)
    return result if reached else result.model_copy(update={"verdict": "FAIL"})


def _kept(section: Gate, base: Scores, candidate: Scores) -> list[RuleResult]:
    results = []
    tasks = sorted({task for suite, task, _ in candidate if suite == "general"})
    for task in (None, *tasks):
        ours, theirs = (_pool(scores, "general", GENERAL_METRIC, task) for scores in (candidate, base))
        margin = section.kept.margin if task is None else section.kept.task_margin
        compared = _compare(section, "base", ours, theirs, GENERAL_METRIC)
        results.append(compared.result(f"kept/{task}" if task else "kept", -margin, "" if task else _power(compared, margin)))
    return results


def _power(compared: _Comparison, margin: float) -> str:
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


def _champion(section: Gate, champion: Scores, candidate: Scores) -> RuleResult:
    metric = section.learned.metric
    compared = _compare(section, "champion", _pool(candidate, "target", metric), _pool(champion, "target", metric), metric)
    return compared.result("champion", 0.0 if section.champion.promote_if == "better" else -section.champion.margin)


def _smoke(section: Gate, candidate: Scores) -> list[RuleResult]:
    results = []
    for rule, metric, least, meaning in (
        ("smoke/stops", "stops", section.smoke.min_stop_rate, "replies end by themselves"),
        ("smoke/structure", "structure", section.smoke.min_structure_rate, "replies have the demanded structure"),
        ("smoke/empty", "nonempty", 1.0, "replies are not empty"),
    ):
        if least is None:
            continue
        pool = _pool(candidate, "target", metric)
        rate, n = pool.mean(), len(pool.values)
        count = f"{_level(rate, True)} of {n} {meaning}, wanted {'all' if least == 1 else f'at least {_level(least, True)}'}"
        results.append(_rule(rule, "PASS" if rate >= least else "FAIL", count, n, rate, None, least))
    return results


def _wear(section: Gate, judged_before: int) -> RuleResult:
    reason = f"these items have judged {judged_before} other candidates, of {section.shelf_life} that they are good for"
    if judged_before >= section.shelf_life:
        reason += "; they are worn, and what passes may have been fitted to them: add items, or take others (prepare.split_salt)"
    return _rule("wear", "PASS", reason, judged_before)


def _rule(
    rule: str, verdict: Verdict, reason: str, n: int, value: float | None = None, lower: float | None = None,
    threshold: float | None = None,
) -> RuleResult:  # fmt: skip
    return RuleResult(rule=rule, verdict=verdict, value=value, lower=lower, threshold=threshold, n=n, reason=reason)


def _level(value: float, is_share: bool) -> str:
    return f"{value * 100:.1f} %" if is_share else f"{value:.3f}"


def gate(section: Gate, workspace: Workspace) -> GateDecision:
    """Decide, and write data/reports/gate.json last.

    Raises:
        StageInputError: as `replay`.
    """
    decision = replay(section, workspace).write(workspace.record("gate"))
    note(workspace, decision)
    return decision


def replay(section: Gate, workspace: Workspace) -> GateDecision:
    """Read reports and scores of base, candidate and champion, and decide; writes nothing.

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
        if role == "champion" and report.model_digest is None and report.scores_sha256 is None:
            scores[role] = Scores()
            continue
        if not table.is_file():
            raise StageInputError(f"{workspace.relative(table)}: missing; {again}")
        if (found := sha256_file(table)) != report.scores_sha256:
            wanted = (report.scores_sha256 or "none")[:12]
            raise StageInputError(
                f"{workspace.relative(table)}: found sha256 {found[:12]}, {workspace.relative(record)} says {wanted}; {again}"
            )
        scores[role] = read_scores(table)
    published = ChampionRecord.read(workspace.record("champion"))
    if published.digest != reports["champion"].model_digest:
        scored, current = (workspace.relative(workspace.record(stage)) for stage in ("evaluate@champion", "champion"))
        raise StageInputError(
            f"{scored}: is of {_short(reports['champion'].model_digest)}, {current} says {_short(published.digest)}; "
            "run the stage evaluate@champion again"
        )
    candidate = reports["candidate"]
    before = judged_before(workspace, candidate.items_sha256 or "", candidate.model_digest or "")
    return decide(section, reports, scores, published.version, before)


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "no model"


def main() -> int:
    """Judge the candidate of a workspace."""

    def work(workspace: Workspace, params: Params) -> GateDecision:
        return gate(params.gate, workspace)

    return stage_main(__doc__, work)


if __name__ == "__main__":
    raise SystemExit(main())
