"""Items scored per second: the stage evaluate against lm-eval's own command line, on the general suite and the default model.

    .venv/bin/python tests/benchmarks/scoring.py

Both are whole processes, from start to results on disk. The stage's target suite is one reply of one token, so that both score
the same 900 items, in the number format that Refit takes on this machine. Needs data/base (`python -m tasks.base`).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tasks.evaluation_records import EvalReport
from tasks.params import load_params
from tasks.paths import Workspace

REPO = Path(__file__).parents[2]
ROUNDS = 2
ROW = {
    "id": "one",
    "cluster": "one",
    "topic": "",
    "must_say": [""],
    "tools": "",
    "messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}],
}


def make_workspace(folder: Path) -> Workspace:
    workspace = Workspace(folder)
    workspace.prepared.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([ROW]), workspace.prepared / "test.parquet")
    for name in ("base", "eval"):
        (workspace.data / name).symlink_to(REPO / "data" / name)
    tree = yaml.safe_load((REPO / "params.yaml").read_text())
    tree["evaluate"]["max_new_tokens"] = 1
    workspace.params.write_text(yaml.safe_dump(tree))
    (folder / "dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    return workspace


def seconds(command: list[str], folder: Path) -> float:
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        workspace = make_workspace(Path(name))
        section = load_params(workspace.params).evaluate
        ours = [sys.executable, "-m", "tasks.evaluate", "base"]
        first = seconds(ours, workspace.root)
        report = EvalReport.read(workspace.record("evaluate@base"))
        peer = [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "refit_general", "--device", "cpu"),
            *(
                "--model_args",
                f"pretrained=data/base,dtype={report.dtype}",
                "--batch_size",
                str(section.loglikelihood_batch_size),
            ),
            *("--include_path", "data/eval", "--output_path", "results", "--log_samples"),
        ]
        peers = [seconds(peer, workspace.root) for _ in range(ROUNDS)]
        own = [first, *(seconds(ours, workspace.root) for _ in range(ROUNDS - 1))]
        items = sum(task.n_items for task in report.tasks)
        refit, lm_eval = statistics.median(own), statistics.median(peers)
        print(
            f"{items} items in {report.dtype}, median of {ROUNDS}: refit {items / refit:.1f} items/s, lm_eval "
            f"{items / lm_eval:.1f} items/s, ratio {lm_eval / refit:.2f}"
        )


if __name__ == "__main__":
    main()
