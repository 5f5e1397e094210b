"""What a run costs when nothing changed: `refit run` against `dvc repro`, on this repository, after a finished run.

.venv/bin/python tests/benchmarks/unchanged_run.py
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).parents[2]
ROUNDS = 5


def seconds(command: list[str]) -> float:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    began = time.perf_counter()
    subprocess.run(command, cwd=REPO, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    ours = [sys.executable, "-m", "flows.cli", "run"]
    peer = [sys.executable, "-m", "dvc", "repro"]
    pairs = [(seconds(ours), seconds(peer)) for _ in range(ROUNDS)]
    refit, dvc = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"unchanged run, median of {ROUNDS}: refit run {refit:.2f} s, dvc repro {dvc:.2f} s, ratio {refit / dvc:.2f}")


if __name__ == "__main__":
    main()
