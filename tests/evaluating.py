"""The section `evaluate` as the tests of suites and scorers need it."""

from collections.abc import Sequence
from typing import Any

from tasks.evaluation_sections import Evaluate


def section(general: Sequence[Any] = ("any",), target: Sequence[Any] = (), **scorers: Any) -> Evaluate:
    """With these tasks and scorers, exact_match where none is given; all else is small."""
    return Evaluate.model_validate(
        {
            "dtype": "float32",
            "max_new_tokens": 8,
            "generation_batch_size": 8,
            "loglikelihood_batch_size": 8,
            "scorers": scorers or {"exact_match": {"type": "exact_match"}},
            "target_tasks": target,
            "general_tasks": general,
        }
    )
