"""Whether params.yaml trains on a processor as fast as it can: other precisions, threads, batches and orders on the same rows.

    python tests/benchmarks/cpu_defaults.py [ROWS]      # default 48; about a quarter of an hour on two cores

Needs data/base (`refit run` or `python -m tasks.base`). Each other choice takes turns with the default and is printed as a share
of its tokens a second, so that a machine that slows down slows down both. What is padding in the default's batches is all that
batches by a budget of tokens could save beside what another size of batch does.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.environment import pick_dtype, work_offline
from tasks.fit import load_split
from tasks.paths import Workspace
from tasks.training_section import Train
from tests.benchmarks.training import pace, prepared, trained

NO_EVALUATION = 10_000
ONE_ROW = {"max_steps": 1, "per_device_train_batch_size": 1}  # of a precision that may be a hundred times slower


def choices(section: Train) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By name: what both settings share beside params.yaml, and what the other one changes."""
    other = "float32" if pick_dtype("auto") == "bfloat16" else "bfloat16"
    sizes = [size for size in (1, 2, 4, 8, 16) if size != section.per_device_train_batch_size]
    return {
        "rows in random order": ({}, {"sft": {"train_sampling_strategy": "random"}}),
        **{f"batches of {size}": ({}, {"per_device_train_batch_size": size}) for size in sizes},
        other: (ONE_ROW, {"dtype": other}),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def padding(section: Train, workspace: Workspace) -> float:
    """Tokens of padding for each token of a row, in the batches of the first epoch over the whole training split."""
    from tasks.sft_trainer import _ByLength

    lengths = load_split(workspace.prepared / "whole-train.parquet", section)["n_tokens"].to_pylist()
    size = section.per_device_train_batch_size
    ordered = [lengths[row] for row in _ByLength(size, lengths, section.seed, lambda: 0)]
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return float(sum(max(batch) * len(batch) for batch in batches) / sum(lengths) - 1)


def main(count: int) -> None:
    work_offline()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        workspace, params = prepared(folder / "workspace", count)
        section = params.train.model_copy(update={"eval_steps": NO_EVALUATION})

        def tokens_a_second(**changes: Any) -> float:
            left = folder / "training"
            shutil.rmtree(left, ignore_errors=True)
            return pace(trained(section.model_copy(update=changes), workspace, left).history)

        tokens_a_second(max_steps=1)  # the first one also loads libraries
        found = {}
        for name, (common, changes) in choices(section).items():
            default = tokens_a_second(**common)
            found[name] = tokens_a_second(**common, **changes) / default
        default = tokens_a_second()
        with one_thread():
            found["one thread"] = tokens_a_second() / default
        print(f"default on {count} rows: {default:.0f} tokens/s, {padding(section, workspace):.1%} padding in an epoch")
        for name, share in found.items():
            print(f"{name}: {share:.2f} of that")


if __name__ == "__main__":
    began = time.monotonic()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 48)
    print(f"{time.monotonic() - began:.0f} s in all")
