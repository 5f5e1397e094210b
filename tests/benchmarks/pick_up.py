"""Seconds until Prefect picks up a run: from new data in the folder that `refit serve` watches, beside Prefect's own automation
from the bare event.

.venv/bin/python tests/benchmarks/pick_up.py [ROUNDS]
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.serving import Service, served


def new_row(service: Service, number: int) -> None:
    """One that validation refuses, so that nothing is trained for it."""
    with (service.workspace.data / "raw" / "orders.jsonl").open("a") as rows:
        rows.write(f"not a row: {number}\n")


def bare_event(service: Service, name: str) -> None:
    from prefect.events import Event

    event = Event(
        event="refit.data.changed",
        resource={"prefect.resource.id": f"refit.data.{name}"},
        payload={"summary": "a bare event"},
        id=uuid4(),
    )
    with service.client() as client:
        client._client.post("/events", json=[event.model_dump(mode="json")]).raise_for_status()


def picked_up(service: Service, known: set[Any], began: float) -> float:
    """Seconds until the run that is new began to be started; it is waited for."""
    (run,) = service.until(lambda: [run for run in service.runs() if run.id not in known], "the run")
    service.ended(run.id)
    with service.client() as client:
        states = client.read_flow_run_states(run.id)
    first: float = min(state.timestamp.timestamp() for state in states if state.type == "PENDING")
    return first - began


def main(rounds: int) -> None:
    taken: dict[str, list[float]] = {"data": [], "event": []}
    with served(quiet_seconds=0) as service:
        for number in range(rounds):
            for way, seconds in taken.items():
                known, began = {run.id for run in service.runs()}, time.time()
                if way == "data":
                    new_row(service, number)
                else:
                    bare_event(service, "quillmere-support")
                seconds.append(picked_up(service, known, began))
    ours, peer = (statistics.median(seconds) for seconds in taken.values())
    print(
        f"until a run is picked up, median of {rounds}: new data {ours:.1f} s, bare event {peer:.1f} s, "
        f"difference {ours - peer:.1f} s, ratio {ours / peer:.1f}"
    )
    print({way: [round(each, 1) for each in seconds] for way, seconds in taken.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
