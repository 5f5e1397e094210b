"""The parameters of a run as the dashboard has them, and what a run owes to the process that started it."""

import json
import signal
from collections.abc import Mapping
from typing import Any, Literal

from tasks.process import on_parent_death

Stage = Literal[
    "suites",
    "base",
    "validate",
    "drift",
    "prepare",
    "train",
    "champion",
    "evaluate@base",
    "evaluate@champion",
    "evaluate@best",
    "evaluate@candidate",
    "gate",
    "report",
]


def as_settings(values: Mapping[str, Any]) -> list[str]:
    """`section.key=value` for each value that is given; JSON is YAML, so that no text can be taken for anything else."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]


def end_with_runner() -> None:
    """In a run of a deployment: end when the worker or server that started it is killed, since it would start the run again."""
    from prefect.runtime import deployment

    if deployment.id:
        on_parent_death(signal.SIGKILL)
