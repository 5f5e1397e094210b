"""One page of a run for a person: the decision first, then scores, curves, data, and the answers side by side.

python -m tasks.report
"""

import difflib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.decision_text import HEADLINES
from tasks.evaluation_records import EvalReport, GateDecision, Metric, ReportPage
from tasks.evaluation_sections import REPLY_LOSS
from tasks.figures import change, level
from tasks.files import sha256_file, write_atomic
from tasks.params import Params
from tasks.paths import ROLES, Workspace
from tasks.pictures import curves_svg, intervals_svg, read_curve
from tasks.process import stage_main
from tasks.records import DriftReport, PreparedDataset, TrainedModel, ValidationReport

_TEMPLATE = "report.html.jinja"
_MOST_ITEMS = 500
_WORDS = re.compile(r"\s*\S+|\s+$")


def report(name: str, metric: str, workspace: Workspace) -> ReportPage:
    """Write data/reports/report.html, whole in one file that loads nothing, and its record.

    Args:
        name: of the published model.
        metric: of the target suite, by which answers are ordered; an answer that lacks it counts as 0.

    Raises:
        StageInputError: a stage before has not finished.
    """
    decision = GateDecision.read(workspace.record("gate"))
    reports = {role: EvalReport.read(workspace.record(f"evaluate@{role}")) for role in ROLES}
    roles = [role for role in ROLES if reports[role].model_digest is not None]
    trained = TrainedModel.read(workspace.record("train"))
    validated = ValidationReport.read(workspace.record("validate"))
    prepared = PreparedDataset.read(workspace.record("prepare"))
    items = _items(workspace, roles, metric)
    curves = {f"{kind} loss": read_curve(workspace.plots / f"{kind}.csv") for kind in ("train", "eval")}
    html = _template().render(
        name=name,
        decision=decision,
        headline=HEADLINES[decision.verdict],
        intervals=intervals_svg(decision.rules),
        roles=roles,
        scores=_scores(reports, roles),
        curves=curves_svg(curves, "step"),
        training=trained.summary(),
        validated=validated.summary(),
        reasons=sorted(validated.reasons.items(), key=lambda item: -item[1]),
        splits=prepared.splits.items(),
        drift=DriftReport.read(workspace.record("drift")).summary(),
        metric=metric,
        reference=_reference(roles),
        shown=f"{min(len(items), _MOST_ITEMS)} of {len(items)} test conversations.",
        topics=sorted({item.topic for item in items}),
        items=items[:_MOST_ITEMS],
    )
    path = workspace.report
    write_atomic(path, html.encode("utf-8", "replace"))
    return ReportPage(
        page=workspace.relative(path),
        sha256=sha256_file(path),
        verdict=decision.verdict,
        candidate_digest=decision.candidate_digest,
    ).write(workspace.record("report"))


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(_TEMPLATE)


def _reference(roles: list[str]) -> str:
    """What the candidate's answers are compared with: what readers have now."""
    return "champion" if "champion" in roles else "base"


def _scores(reports: dict[str, EvalReport], roles: list[str]) -> list[dict[str, Any]]:
    return [_score(metric, reports, roles) for metric in reports["candidate"].metrics]


def _score(metric: Metric, reports: dict[str, EvalReport], roles: list[str]) -> dict[str, Any]:
    key = (metric.suite, metric.task, metric.metric)
    values = {role: reports[role].value(*key) for role in roles}
    share = metric.metric != REPLY_LOSS
    gain = None if values["base"] is None else metric.value - values["base"]
    better = gain is not None and (gain > 0) is metric.higher_is_better
    return {
        "suite": metric.suite,
        "task": metric.task,
        "metric": metric.metric,
        "n": metric.n,
        "cells": ["" if value is None else level(value, share) for value in values.values()],
        "change": "" if gain is None else change(gain, share),
        "verdict": "" if not gain else "PASS" if better else "FAIL",
    }


@dataclass(frozen=True, slots=True)
class _Answer:
    role: str
    scores: str
    parts: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Item:
    """A test conversation with every model's answer; `gain` is the candidate's over the reference."""

    id: str
    topic: str
    prompt: str
    reference: str
    gain: float
    answers: list[_Answer]

    @property
    def change(self) -> str:
        return "worse" if self.gain < 0 else "better" if self.gain > 0 else "same"

    @property
    def difference(self) -> str:
        return f"{self.change}{f' ({self.gain:+.2f})' if self.gain else ''}"


def _items(workspace: Workspace, roles: list[str], metric: str) -> list[_Item]:
    """Worst first; equal ones by their id."""
    rows = {role: _read_answers(workspace.scores(role) / "answers.jsonl") for role in roles}
    against = rows[_reference(roles)]
    items = []
    for name, row in rows["candidate"].items():
        before = against[name]
        answers = [_Answer(role, _marks(found[name]), [("", found[name]["answer"])]) for role, found in rows.items()]
        answers[-1] = _Answer("candidate", _marks(row), word_changes(before["answer"], row["answer"]))
        gain = float(row.get(metric, 0)) - float(before.get(metric, 0))
        items.append(_Item(name, row.get("topic") or "", row["prompt"], row["reference"], gain, answers))
    return sorted(items, key=lambda item: (item.gain, item.id))


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    with path.open(encoding="utf-8", errors="surrogatepass") as lines:
        return {str(row["id"]): row for row in map(json.loads, lines)}


def _marks(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items() if isinstance(value, float))


def word_changes(before: str, after: str) -> list[tuple[str, str]]:
    """What became of a text, word by word: pairs of "ins", "del" or "" (the same) and the words."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("", "".join(new[k:m])))
            continue
        parts += [(tag, words) for tag, words in (("del", "".join(old[i:j])), ("ins", "".join(new[k:m]))) if words]
    return parts


def _run(workspace: Workspace, params: Params) -> ReportPage:
    scored = params.evaluate.reply_metrics
    metric = next((name for name in params.gate.learned if name in scored), scored[0])
    return report(params.push.name, metric, workspace)


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
