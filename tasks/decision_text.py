"""A gate decision for people: plain text for a terminal, Markdown for the dashboard and the model card."""

from tasks.evaluation_records import GateDecision, RuleResult
from tasks.figures import change, level

HEADLINES = {
    "PASS": "PASS: every rule passed, the candidate may be published",
    "FAIL": "FAIL: the candidate is not to be published",
    "INCONCLUSIVE": "INCONCLUSIVE: too few items to tell; add items rather than train again",
}
_HEADERS = ("rule", "verdict", "measured", "lower bound", "wanted", "items")
_ESCAPES = str.maketrans({"<": "&lt;", ">": "&gt;"} | {character: f"\\{character}" for character in "\\`|*_[]"})


def explain(decision: GateDecision) -> str:
    """The decision as a table in plain text, each rule's reason in words below it; ends without a newline."""
    table = [_HEADERS, *(_cells(rule) for rule in decision.rules)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADERS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    reasons = [f"{rule.rule}: {rule.reason}" for rule in decision.rules]
    return "\n".join([*_headlines(decision), *_models(decision), "", *lines, "", *reasons])


def markdown(decision: GateDecision) -> str:
    """The decision as a Markdown table, one row a rule; names and reasons cannot break out of their cell."""
    rows = [(*_cells(rule), rule.reason) for rule in decision.rules]
    lines = ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in [(*_HEADERS, "reason"), *rows]]
    lines.insert(1, "|" + " --- |" * (len(_HEADERS) + 1))
    models = [f"- {_escape(line)}" for line in _models(decision)]
    heads = [f"**{_escape(head)}**" for head in _headlines(decision)]
    return "\n".join(["\n\n".join(heads), "", *models, "", *lines])


def _headlines(decision: GateDecision) -> list[str]:
    override = [] if decision.override is None else [f"OVERRIDDEN, published all the same: {decision.override}"]
    return [*override, HEADLINES[decision.verdict]]


def _models(decision: GateDecision) -> list[str]:
    champion = "none yet, so that rule was not needed"
    if decision.champion_digest is not None:
        champion = f"{decision.champion_version or 'unnamed'} ({decision.champion_digest[:12]})"
    return [
        f"candidate {decision.candidate_digest[:12]}",
        f"base {decision.base_digest[:12]}",
        f"champion {champion}",
        *([f"best ever {decision.best_version}"] if decision.best_version else []),
        f"items {decision.items_sha256[:12]}",
    ]


def _cells(rule: RuleResult) -> tuple[str, ...]:
    wanted = "" if rule.threshold is None else f"{'>=' if rule.unit == 'share' else '>'} {_figure(rule, rule.threshold)}"
    return (rule.rule, rule.verdict, _figure(rule, rule.value), _figure(rule, rule.lower), wanted, f"{rule.n}")


def _figure(rule: RuleResult, figure: float | None) -> str:
    """In percentage points, percent or the metric's own unit, as the reasons give them."""
    if figure is None:
        return ""
    return level(figure, is_share=True) if rule.unit == "share" else change(figure + 0.0, rule.unit == "points")


def _escape(text: str) -> str:
    return " ".join(text.split()).translate(_ESCAPES)
