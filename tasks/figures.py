"""How scores and their differences are written, in a decision as in the report."""

from typing import Literal


def level(value: float, is_share: bool) -> str:
    return f"{value * 100:.1f} %" if is_share else f"{value:.3f}"


def change(value: float, is_share: bool) -> str:
    """A difference; of shares in percentage points."""
    return f"{value * 100:+.1f} pp" if is_share else f"{value:+.3f}"


def unit(is_share: bool) -> Literal["points", "number"]:
    """Of a difference, as `RuleResult` names it."""
    return "points" if is_share else "number"
