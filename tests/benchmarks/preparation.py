"""Rows a second of validate and prepare, beside TRL's own preparation of the same rows in the same run.

    python tests/benchmarks/preparation.py [ROWS]      # default 100,000

Refit judges each row, tokenises it, looks for duplicates and leaks, splits, writes Parquet; TRL tokenises prompt and completion.
TRL gets at most 10,000 of the rows, since its time grows linearly. Needs data/base (`refit run` or `python -m tasks.base`).
Memory is that of all processes together (PSS, so that shared pages count once), looked at twice a second.
"""

import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from tasks.environment import work_offline
from tasks.files import parse_yaml
from tasks.params import parse_params
from tasks.paths import Workspace
from tasks.prepare import prepare
from tasks.validate import validate

REPO = Path(__file__).parents[2]
PEER_ROWS = 10_000
PLAIN: dict[str, Any] = {
    "learned": {"exact_match": {"min_gain": 0.2, "floor": 0.5}},
    "smoke": {"stops": 0.95, "nonempty": 1.0, "no_repetition": 0.95},
}


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Conversations of about 400 bytes, in words of the default data."""
    text = "".join(path.read_text() for path in sorted((REPO / "data" / "raw").glob("*.jsonl")) if path.name != "inbox.jsonl")
    words, draw = [word for word in text.split() if word.isalpha()], random.Random(7)
    for number in range(count):
        turns = [("user", " ".join(draw.choices(words, k=14)) + "?"), ("assistant", " ".join(draw.choices(words, k=38)) + ".")]
        yield {"id": f"row-{number}", "messages": [{"role": role, "content": text} for role, text in turns]}


class Memory:
    """The largest sum of the memory of this process and its children within the context, in bytes."""

    def __enter__(self) -> "Memory":
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        own = psutil.Process()
        while not self._done.wait(0.5):
            total = 0
            for process in (own, *own.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total)


def refit_seconds(count: int, folder: Path) -> tuple[float, float]:
    """Validate and prepare rows from one JSONL file; the seconds of each."""
    workspace = Workspace(folder)
    raw = workspace.data / "raw" / "rows.jsonl"
    raw.parent.mkdir(parents=True)
    with raw.open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows(count))
    workspace.base.symlink_to(REPO / "data" / "base")
    tree = parse_yaml((REPO / "params.yaml").read_text())
    tree["guidelines"] = None
    tree["evaluate"]["scorers"] = {"exact_match": {"type": "exact_match"}}
    tree["gate"] |= PLAIN
    params = parse_params(tree, "params.yaml")
    print(f"{count:,} conversations, {raw.stat().st_size / 1e6:.0f} MB of JSONL")
    began = time.perf_counter()
    print(validate(params.validation, params.guidelines, workspace).summary())
    between = time.perf_counter()
    print(prepare(params.prepare, workspace.accepted, workspace.prepared, workspace.record("prepare")).summary())
    return between - began, time.perf_counter() - between


def trl_seconds(conversations: list[dict[str, Any]], folder: Path) -> float:
    """What SFTTrainer does with them before the first step, for a model of no size."""
    import datasets
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(REPO / "data" / "base")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    config = SFTConfig(output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, max_length=512)
    pairs = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in conversations]
    seconds = []
    for part in (pairs[:10], pairs):  # what does not depend on the number of rows is taken off
        began = time.perf_counter()
        SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(part))
        seconds.append(time.perf_counter() - began)
    return seconds[1] - seconds[0]


def main() -> None:
    work_offline()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    folder = Path(tempfile.mkdtemp())
    try:
        with Memory() as memory:
            validating, preparing = refit_seconds(count, folder / "refit")
        sample = list(islice(rows(count), PEER_ROWS))
        peer = len(sample) / trl_seconds(sample, folder / "trl")
    finally:
        shutil.rmtree(folder)
    own = count / (validating + preparing)
    print(f"validate {validating:.1f} s, prepare {preparing:.1f} s, all processes together {memory.peak / 1e9:.2f} GB")
    print(f"Refit {own:,.0f} rows/s; TRL {peer:,.0f} rows/s; ratio {own / peer:.1f}")


if __name__ == "__main__":
    main()
