"""Pictures as SVG text: no plotting library, no script, nothing loaded from anywhere."""

import csv
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tasks.evaluation_records import RuleResult

_WIDTH, _HEIGHT, _MARGIN = 640, 300, 46
_COLOURS = ("#1f6feb", "#d1601f")
_VERDICTS = {"PASS": "#1a7f37", "FAIL": "#cf222e", "INCONCLUSIVE": "#9a6700"}


def read_curve(path: Path) -> list[tuple[float, float]]:
    """The points of a curve that `train` wrote: a CSV file with a header; the first two columns are step and value."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    return [(float(step), float(value)) for step, value, *_ in rows]


def intervals_svg(rules: Sequence[RuleResult]) -> str:
    """One line a rule on a difference: its point estimate, a bar down to the lower bound, and a mark at the threshold.

    In percentage points: rules without a bound, and of metrics that are no shares, are left out.
    """
    shown = [
        (rule, rule.value, rule.lower, rule.threshold)
        for rule in rules
        if rule.value is not None and rule.lower is not None and rule.unit == "points"
    ]
    values = [value for _, *found in shown for value in found if value is not None] + [0.0]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    left, width, step = 200, _WIDTH - 200 - _MARGIN, 26
    height = step * len(shown) + 2 * _MARGIN

    def across(value: float) -> float:
        return left + (value - low) / span * width

    lines = [f'<path d="M{across(0):.1f} {_MARGIN - 10} V{height - _MARGIN + 4}" stroke="#888" stroke-dasharray="3 3"/>']
    for number, (rule, value, lower, threshold) in enumerate(shown):
        y = _MARGIN + step * number + 8
        colour = _VERDICTS[rule.verdict]
        lines.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(rule.rule)}</text>')
        assert value is not None
        assert lower is not None
        lines.append(f'<path d="M{across(lower):.1f} {y} H{across(value):.1f}" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<circle cx="{across(value):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        if threshold is not None:
            lines.append(f'<path d="M{across(threshold):.1f} {y - 8} v16" stroke="#1f2328" stroke-width="2"/>')
    lines += [
        f'<text x="{across(value):.1f}" y="{height - _MARGIN + 20}" text-anchor="middle">{value * 100:+.1f}</text>'
        for value in sorted({low, 0.0, high})
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(lines)}</svg>'
    )


def curves_svg(curves: dict[str, list[tuple[float, float]]], x_label: str) -> str:
    """A line chart of named curves (at most two), with axes from 0 to the largest value."""
    points = [point for curve in curves.values() for point in curve]
    x_max = max((x for x, _ in points), default=0) or 1
    y_max = max((y for _, y in points), default=0) or 1

    def place(x: float, y: float) -> str:
        across = _MARGIN + x / x_max * (_WIDTH - 2 * _MARGIN)
        down = _HEIGHT - _MARGIN - y / y_max * (_HEIGHT - 2 * _MARGIN)
        return f"{across:.1f},{down:.1f}"

    lines, legend = [], []
    for number, ((name, curve), colour) in enumerate(zip(curves.items(), _COLOURS, strict=False)):
        path = " ".join(place(x, y) for x, y in curve)
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        legend.append(
            f'<text x="{_WIDTH - _MARGIN}" y="{20 + 16 * number}" fill="{colour}" text-anchor="end">{escape(name)}</text>'
        )
    axis = f"M{place(0, y_max)} L{place(0, 0)} L{place(x_max, 0)}".replace(",", " ")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/><path d="{axis}" fill="none" stroke="#888"/>'
        f'<text x="{_MARGIN - 6}" y="{_MARGIN + 4}" text-anchor="end">{y_max:.2f}</text>'
        f'<text x="{_MARGIN - 6}" y="{_HEIGHT - _MARGIN}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="end">{escape(x_label)} {x_max:g}</text>'
        f"{''.join(lines)}{''.join(legend)}</svg>"
    )
