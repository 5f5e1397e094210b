"""Values as Markdown that cannot break out of their place: as code, so that nothing in them is read as Markdown or HTML."""

import re
from collections.abc import Iterable
from typing import Any


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """A table, each cell as code."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(code(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def code(value: object) -> str:
    """An inline code span, longer than any run of backticks in it, on one line and without invisible characters."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(str(value).split())) or " "
    fence = "`" * (1 + _longest_run(text))
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def block(text: str, language: str) -> str:
    """A fenced block, with a fence longer than any in the text."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
