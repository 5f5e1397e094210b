"""What months of `refit serve` cost, in small: many unchanged runs one after the other.

Printed are the seconds of a run from its trigger to its end, and what could grow: memory and open files of the service and its
server, processes, the server's database, the workspace without DVC's cache.

.venv/bin/python tests/benchmarks/unattended.py [RUNS]
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import build_tiny_base, build_workspace
from tests.serving import Service, processes

SAMPLES = 8
MB = 2**20


def size(folder: Path, ignored: str = "") -> float:
    """In MB, without the folders of the name `ignored`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ignored not in path.parts) / MB


def grown(service: Service, home: Path) -> str:
    """Once the last run's process has ended, too."""
    service.until(lambda: not processes(service.workspace, b"-m", b"prefect.engine"), "the end of the run's process")
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


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        workspace = build_workspace(home / "workspace", build_tiny_base(home / "base"))
        with Service(workspace, home / "prefect", "--cron", "none", "--quiet-seconds", "1") as service:
            service.ended(service.until(service.runs, "the first run, for data that are new")[0].id)
            in_a_row(service, home, runs)


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
