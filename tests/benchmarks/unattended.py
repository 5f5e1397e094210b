"""What months of `refit serve` cost, in small: many unchanged runs one after the other, then fifty triggers at once.

Printed are the seconds of a run from its trigger to its end, and what could grow: memory and open files of the service and its
server, processes, the server's database, the workspace without DVC's cache.

.venv/bin/python tests/benchmarks/unattended.py [RUNS]
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import build_tiny_base, build_workspace
from tests.serving import Service

SAMPLES = 8
GAP_SECONDS = 15  # without a run while others wait
WORDS = [f"{first}{second}" for first in ("cat", "key", "order", "rain") for second in ("board", "fall", "box", "bow", "hole")]
BY_HAND, BY_DATA = 20, 29  # with the clock: fifty
MB = 2**20


def size(folder: Path, ignored: str = "") -> float:
    """In MB, without the folders of the name `ignored`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ignored not in path.parts) / MB


def grown(service: Service, home: Path) -> str:
    top = psutil.Process(service.process.pid)
    family = [top, *top.children(recursive=True)]
    memory = " + ".join(f"{each.memory_info().rss / MB:.0f}" for each in family)
    files = sum(each.num_fds() for each in family)
    database = sum(path.stat().st_size for path in (home / "prefect").glob("prefect.db*")) / MB
    workspace = size(service.workspace.root, ignored=".dvc")
    return f"memory {memory} MB, {files} files, {len(family)} processes, database {database:.1f} MB, workspace {workspace:.2f} MB"


def by_hand(service: Service) -> Any:
    with service.client() as client:
        deployment = client.read_deployment_by_name("retrain/quillmere-support")
        return client.create_flow_run_from_deployment(deployment.id, parameters={"reason": "by hand"}).id


def in_a_row(service: Service, home: Path, runs: int) -> None:
    taken = []
    for number in range(1, runs + 1):
        began = time.perf_counter()
        ended = service.ended(by_hand(service))
        taken.append(time.perf_counter() - began)
        assert ended.state.name == "Unchanged", ended.state
        if number % max(1, runs // SAMPLES) == 0:
            print(f"after {number} runs: {grown(service, home)}", flush=True)
    print(
        f"{runs} unchanged runs: median {statistics.median(taken):.1f} s from trigger to end, the slowest {max(taken):.1f} s; "
        f"median of the first ten {statistics.median(taken[:10]):.1f} s, of the last ten {statistics.median(taken[-10:]):.1f} s"
    )


def at_once(service: Service) -> None:
    """By all three ways, beside the clock's own run each minute."""
    known, began, log = {run.id for run in service.runs()}, datetime.now(UTC), len(service.log())
    raw = service.workspace.data / "raw"
    row = json.loads((raw / "orders.jsonl").read_text().splitlines()[0])
    for number in range(max(BY_HAND, BY_DATA)):
        if number < BY_HAND:
            by_hand(service)
        if number < BY_DATA:
            row["messages"][-2]["content"] = " ".join(random.Random(number).sample(WORDS, 14))
            (raw / "burst.jsonl").write_text(json.dumps({**row, "id": f"burst-{number}"}) + "\n")

    def due() -> list[Any]:
        return [run for run in service.runs() if run.id not in known and run.expected_start_time <= datetime.now(UTC)]

    def all_ended() -> bool:
        return way(due()).keys() == {"data", "hand", "clock"} and all(run.state.is_final() for run in due())

    while not all_ended():  # longer than `until` waits
        time.sleep(1)
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


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        workspace = build_workspace(home / "workspace", build_tiny_base(home / "base"))
        with Service(workspace, home / "prefect", "--cron", "none", "--quiet-seconds", "1") as service:
            service.ended(service.until(service.runs, "the first run, for data that are new")[0].id)
            in_a_row(service, home, runs)
        with Service(workspace, home / "prefect", "--cron", "* * * * *", "--quiet-seconds", "1") as service:
            at_once(service)


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
