"""Fifty triggers of `refit serve` at once, by hand, by new data and by the clock: how many runs and trainings come of them, how
they end, and where the queue stood still.

.venv/bin/python tests/benchmarks/fifty_triggers.py
"""

import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.serving import Service, new_rows, served

BY_HAND, BY_DATA = 20, 29  # with the clock: fifty
SECONDS = 1800
GAP_SECONDS = 15  # without a run while others wait


def at_once(service: Service) -> None:
    """By all three ways, beside the clock's own run each minute."""
    known, began, log = {run.id for run in service.runs()}, datetime.now(UTC), len(service.log())
    burst = service.workspace.data / "raw" / "burst.jsonl"
    for number in range(max(BY_HAND, BY_DATA)):
        if number < BY_HAND:
            service.start_run()
        if number < BY_DATA:
            burst.write_text(new_rows(service.workspace, number))

    def due() -> list[Any]:
        return [run for run in service.runs() if run.id not in known and run.expected_start_time <= datetime.now(UTC)]

    def all_ended() -> bool:
        return way(due()).keys() == {"data", "hand", "clock"} and all(run.state.is_final() for run in due())

    service.until(all_ended, "the end of all of them", SECONDS)
    states = dict(Counter(run.state.name for run in due()))
    print(
        f"{BY_HAND} by hand, {BY_DATA} changes of the data and the clock: runs by {dict(way(due()))}, ended {states}, "
        f"{service.log()[log:].count('step 6/6 loss')} trainings, {(datetime.now(UTC) - began).total_seconds():.0f} s"
    )
    for earlier, later in pairwise(sorted(due(), key=lambda run: run.start_time)):
        if (gap := (later.start_time - earlier.end_time).total_seconds()) > GAP_SECONDS:
            print(f"  {gap:.0f} s between two of them, before one by {way([later])}")


def way(runs: list[Any]) -> Counter[str]:
    """How many by which way."""
    by_reason = {"new data": "data", "by hand": "hand", "schedule": "clock"}
    return Counter(found for run in runs for start, found in by_reason.items() if run.parameters["reason"].startswith(start))


def main() -> None:
    with served(quiet_seconds=1) as clockless:
        clockless.stop()
        with Service(clockless.workspace, clockless.home, "--cron", "* * * * *", "--quiet-seconds", "1") as service:
            at_once(service)


if __name__ == "__main__":
    main()
