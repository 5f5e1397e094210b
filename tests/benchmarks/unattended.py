"""What months of `refit serve` cost, in small: many unchanged runs one after the other.

Printed are the seconds of a run from its trigger and from its start to its end, and what could grow: memory and open files of the
service and its server, processes, the server's database, the workspace without DVC's cache.

.venv/bin/python tests/benchmarks/unattended.py [RUNS]
"""

import sys
import time
from pathlib import Path
from statistics import median

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.serving import Service, processes, served

SAMPLES = 8
MB = 2**20


def size(folder: Path, ignored: str = "") -> float:
    """In MB, without the folders of the name `ignored`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ignored not in path.parts) / MB


def grown(service: Service) -> str:
    """Once the last run's process has ended, too."""
    service.until(lambda: not processes(service.workspace, b"-m", b"prefect.engine"), "the end of the run's process")
    top = psutil.Process(service.process.pid)
    family = [top, *top.children(recursive=True)]
    memory = " + ".join(f"{each.memory_info().rss / MB:.0f}" for each in family)
    files = sum(each.num_fds() for each in family)
    database = sum(path.stat().st_size for path in service.home.glob("prefect.db*")) / MB
    workspace = size(service.workspace.root, ignored=".dvc")
    return f"memory {memory} MB, {files} files, {len(family)} processes, database {database:.1f} MB, workspace {workspace:.2f} MB"


def in_a_row(service: Service, runs: int) -> None:
    taken, ran = [], []
    for number in range(1, runs + 1):
        began = time.perf_counter()
        ended = service.ended(service.start_run())
        taken.append(time.perf_counter() - began)
        ran.append(ended.total_run_time.total_seconds())
        assert ended.state.name == "Unchanged", ended.state
        if number % max(1, runs // SAMPLES) == 0:
            print(f"after {number} runs: {grown(service)}", flush=True)
    for what, seconds in (("from trigger to end", taken), ("from start to end", ran)):
        print(
            f"{runs} unchanged runs, {what}: median {median(seconds):.1f} s, the slowest {max(seconds):.1f} s; "
            f"the first ten {median(seconds[:10]):.1f} s, the last ten {median(seconds[-10:]):.1f} s"
        )


def main(runs: int) -> None:
    with served(quiet_seconds=1) as service:
        in_a_row(service, runs)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
