"""Seconds from prepared data to the first optimizer step beyond loading and evaluating the model, for few rows and for a million.

    python tests/benchmarks/first_step.py [ROWS]      # default 1,000,000; needs about 3 GB

The rows are made up, about 110 tokens each; the model is a tiny one with the tokenizer of data/base (`python -m tasks.base`),
since its size is not what is measured. The eval split has 50 rows whatever the train split has.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.environment import work_offline
from tasks.fit import fit
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.sft_config import Batch

REPO = Path(__file__).parents[2]
FEW, WATCHED = 1_000, 50


def write_split(path: Path, rows: int, end: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(7)
    lengths = draw.integers(60, 160, rows)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    ids = draw.integers(100, 40_000, offsets[-1], dtype=np.int32)
    ids[offsets[1:] - 1] = end
    labels = ids.copy()
    labels[::3] = -100
    labels[offsets[1:] - 1] = end
    columns: dict[str, Any] = {
        "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
        "labels": pa.ListArray.from_arrays(pa.array(offsets), pa.array(labels)),
        "n_tokens": pa.array(lengths),
        "source": pa.array([f"data/raw/made.jsonl:{line}" for line in range(rows)]),
    }
    pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=16_384)


def seconds_to_first_step(rows: int, folder: Path) -> tuple[float, float]:
    """Of the whole, and of it loading and evaluating the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import tasks.sft_setup
    from tasks.chat import load_tokenizer
    from tasks.sft_trainer import Trainer, Watch

    workspace = Workspace(folder)
    workspace.base.parent.mkdir(parents=True)
    workspace.base.symlink_to(REPO / "data" / "base")
    tokenizer = load_tokenizer(workspace.base)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "start")
    workspace.prepared.mkdir()
    write_split(workspace.prepared / "train.parquet", rows, tokenizer.eos_token_id)
    write_split(workspace.prepared / "eval.parquet", WATCHED, tokenizer.eos_token_id)
    changes = {"method": "full", "max_steps": 1, "learning_rate": 0.01, "warmup_steps": 0}
    section = load_params(REPO / "params.yaml").train.model_copy(update=changes)
    reached: list[float] = []
    model_seconds: list[float] = []
    load, evaluate = tasks.sft_setup._load, Trainer.evaluate

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            found = work(*arguments, **settings)
            if not reached:
                model_seconds.append(time.perf_counter() - began)
            return found

        return run

    def on_step_begin(self: Watch, *_: Any, **__: Any) -> None:
        reached.append(time.perf_counter())

    Watch.on_step_begin = on_step_begin  # type: ignore[method-assign]
    tasks.sft_setup._load, Trainer.evaluate = timed(load), timed(evaluate)  # type: ignore[method-assign]
    (folder / "run").mkdir()
    began = time.perf_counter()
    fit(section, workspace, folder / "start", folder / "run", Batch.of(section))
    tasks.sft_setup._load, Trainer.evaluate = load, evaluate  # type: ignore[method-assign]
    return reached[0] - began, sum(model_seconds)


def main() -> None:
    work_offline()
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    import trl  # noqa: F401  what importing costs is the same for any number of rows

    folder = Path(tempfile.mkdtemp())
    try:
        for rows in (FEW, many):
            whole, model = seconds_to_first_step(rows, folder / str(rows))
            print(f"{rows:,} rows: {whole:.1f} s to the first step, {whole - model:.1f} s without loading and evaluating it")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
