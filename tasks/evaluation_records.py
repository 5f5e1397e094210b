"""What suites, champion, evaluate, gate and report leave behind; see `tasks.records`."""

from collections.abc import Sequence
from typing import Literal

from tasks.records import Environment, Record

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class SuiteTask(Record):
    """One task of an eval suite: `entry` is its name, or that of its group, in params.yaml; `metric` is the one compared.

    Where `limit` is set, only so many items are scored; `n_items` are those that are.
    """

    suite: Literal["target", "general"]
    entry: str
    task: str
    metric: str
    version: str
    num_fewshot: int | None
    apply_chat_template: bool
    limit: int | None
    n_items: int


class SuitesReport(Record):
    """Of `suites`: the tasks of the eval suites beside the test split, each item of which was looked at."""

    tasks: list[SuiteTask]
    items_sha256: str

    def summary(self) -> str:
        counts = ", ".join(f"{task.task} {task.n_items}" for task in self.tasks)
        return f"{sum(task.n_items for task in self.tasks)} items beside the test split: {counts}{limited(self.tasks)}"


def limited(tasks: Sequence[SuiteTask]) -> str:
    """A warning about tasks of which not all is scored, else nothing."""
    cut = [f"{task.task} to {task.limit}" for task in tasks if task.limit is not None]
    return f"; LIMITED: {', '.join(cut)} items, so what is said of them holds for these only" if cut else ""


class ChampionRecord(Record):
    """Of `champion`: the published version that the candidate would replace; version and digest are None if there is none.

    `best_version` is the best one ever published, None where that is the champion itself.
    """

    registry: str
    version: str | None
    digest: str | None
    best_version: str | None = None
    best_digest: str | None = None

    def summary(self) -> str:
        best = f"; the best ever is {self.best_version}" if self.best_version else ""
        return f"champion {self.version or 'none yet'} of {self.registry}{best}"


class Metric(Record):
    """A number with its conditions; `stderr` is that of the mean over items."""

    suite: Literal["target", "general"]
    task: str
    metric: str
    value: float
    stderr: float
    n: int
    higher_is_better: bool


class EvalReport(Record):
    """Of `evaluate@ROLE`. Where there is no such model, nothing is scored and what would describe the scoring is None."""

    role: Literal["base", "champion", "best", "candidate"]
    model_digest: str | None
    items_sha256: str | None
    scores_sha256: str | None
    dtype: str | None
    tasks: list[SuiteTask]
    metrics: list[Metric]
    environment: Environment | None

    def value(self, suite: str, task: str, metric: str) -> float | None:
        """Mean of one metric, None if it was not computed."""
        return next((m.value for m in self.metrics if (m.suite, m.task, m.metric) == (suite, task, metric)), None)

    def summary(self) -> str:
        if self.model_digest is None:
            return f"{self.role}: none, nothing to score"
        return f"{self.role}: " + ", ".join(f"{m.task}/{m.metric} {m.value:.3f}" for m in self.metrics) + limited(self.tasks)


class RuleResult(Record):
    """One rule of the gate: what was measured, what was wanted, and the verdict with its reason in words.

    `value` is the point estimate, `lower` its one-sided lower bound (None where the rule needs none), `n` the items. They are
    differences of shares (`points`), shares (`share`), or of a metric's own unit (`number`).
    """

    rule: str
    verdict: Verdict
    unit: Literal["points", "share", "number"]
    value: float | None
    lower: float | None
    threshold: float | None
    n: int
    reason: str


class GateDecision(Record):
    """Of `gate`: PASS only if every rule passes; FAIL if one fails; else INCONCLUSIVE.

    `best_version` is the best one published so far, the champion or one before it; `is_best`: the candidate is at least as good.
    `override` is who published it all the same, and why: the gate itself never sets it, only what is published with it has it.
    """

    verdict: Verdict
    rules: list[RuleResult]
    candidate_digest: str
    base_digest: str
    champion_version: str | None
    champion_digest: str | None
    best_version: str | None
    is_best: bool
    items_sha256: str
    override: str | None = None

    def reasons(self) -> list[str]:
        """The reasons of every rule that did not pass."""
        return [f"{rule.rule}: {rule.reason}" for rule in self.rules if rule.verdict != "PASS"]

    def summary(self) -> str:
        return f"gate {self.verdict}" + "".join(f"\n  {reason}" for reason in self.reasons())


class ReportPage(Record):
    """Of `report`: the page of a run for a person."""

    page: str
    sha256: str
    verdict: Verdict
    candidate_digest: str

    def summary(self) -> str:
        return f"{self.page} tells it all: {self.verdict}"
