"""Training on the default base model and data, beside a bare SFTTrainer at equal settings and beside `trl sft` as it comes.

    python tests/benchmarks/training.py [ROWS]      # default 96; about a quarter of an hour on two cores

Needs data/base (`refit run` or `python -m tasks.base`). The bare trainer and Refit take turns, after a step that does not count,
so that a machine that slows down slows down both; both keep freed memory. `trl sft` gets `--bf16 false` where this processor has
no bfloat16: with its default it would take far longer.
Losses are those of the replies of the whole eval split, in nats a token.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tasks.environment import keep_freed_memory, pick_dtype, work_offline
from tasks.fit import Fit, fit, load_split, weights_of
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.prepare import prepare
from tasks.sft_config import Batch, lora_config, precisions, sft_config
from tasks.train import _merged
from tasks.training_section import Train
from tasks.validate import validate

REPO = Path(__file__).parents[2]
EQUAL_STEPS, TURNS = 12, 3
WATCHED_ROWS = 4  # evaluating is not what is measured


def prepared(folder: Path, rows: int) -> tuple[Workspace, Params]:
    """The default data as prepare leaves them, the train split cut to `rows`, the eval split kept whole beside."""
    import pyarrow.parquet as pq

    workspace = Workspace(folder)
    shutil.copytree(REPO / "data" / "raw", workspace.data / "raw")
    workspace.base.symlink_to(REPO / "data" / "base")
    shutil.copyfile(REPO / "params.yaml", workspace.params)
    params = load_params(workspace.params)
    validate(params.validation, params.guidelines, workspace)
    prepare(params.prepare, workspace.accepted, workspace.prepared, workspace.record("prepare"))
    for split, count in (("train", rows), ("eval", WATCHED_ROWS)):
        path = workspace.prepared / f"{split}.parquet"
        table = pq.read_table(path)
        pq.write_table(table, workspace.prepared / f"whole-{split}.parquet")
        pq.write_table(table.slice(0, count), path)
    return workspace, params


def bare(section: Train, workspace: Workspace, folder: Path) -> float:
    """Tokens a second of TRL's own trainer with the same configuration, rows and adapter."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer
    from trl.trainer import utils

    from tasks import sft_trainer

    tables = {name: load_split(workspace.prepared / f"{name}.parquet", section) for name in ("train", "eval")}
    rows = {name: Dataset(table.select(["input_ids", "labels"])) for name, table in tables.items()}
    model = AutoModelForCausalLM.from_pretrained(workspace.base, dtype=precisions(section)[0])
    trainer = SFTTrainer(
        model=model,
        args=sft_config(section, folder, Batch.of(section)),
        processing_class=AutoTokenizer.from_pretrained(workspace.base),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        peft_config=lora_config(section, model.config.num_hidden_layers),
    )
    skips, utils._use_triton = utils._use_triton, sft_trainer._HAS_TRITON  # as TRL comes
    trainer.train()
    utils._use_triton = skips
    return pace(trainer.state.log_history)


def pace(history: list[dict[str, Any]]) -> float:
    """Tokens a second, evaluations and checkpoints included."""
    tokens = max(float(entry.get("num_tokens", 0)) for entry in history)
    return tokens / next(float(entry["train_runtime"]) for entry in history if "train_runtime" in entry)


def trained(section: Train, workspace: Workspace, folder: Path) -> Fit:
    folder.mkdir(parents=True)
    fit(section, workspace, workspace.base, folder, Batch.of(section))
    return Fit.model_validate_json(Fit.path(folder).read_bytes())


def trl_sft(workspace: Workspace, folder: Path) -> tuple[float, Path]:
    """Seconds that `trl sft` trains for one epoch of the same rows with its own defaults, and what it leaves."""
    import pyarrow.parquet as pq

    folder.mkdir()
    table = pq.read_table(workspace.prepared / "train.parquet", columns=["messages"])
    with (folder / "train.jsonl").open("w") as lines:
        for row in table["messages"].to_pylist():
            messages = [{"role": message["role"], "content": message["content"]} for message in row]
            lines.write(json.dumps({"messages": messages}) + "\n")
    command = ["trl", "sft", "--model_name_or_path", str(workspace.base.resolve()), "--dataset_name", str(folder)]
    command += ["--output_dir", str(folder / "out"), "--num_train_epochs", "1", "--report_to", "none", "--use_cpu", "true"]
    if pick_dtype("auto") != "bfloat16":
        command += ["--bf16", "false"]
    command[0] = str(Path(sys.executable).with_name("trl"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"'train_runtime': '?([\d.]+)", done.stdout + done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"trl sft failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return float(found[1]), folder / "out"


def reply_loss(model: Any, workspace: Workspace, section: Train) -> float:
    import torch

    table = load_split(workspace.prepared / "whole-eval.parquet", section)
    total, count = 0.0, 0
    model.eval()
    for ids, labels in zip(table["input_ids"].to_pylist(), table["labels"].to_pylist(), strict=True):
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        supervised = sum(label != -100 for label in labels[1:])
        total, count = total + float(loss) * supervised, count + supervised
    return total / count


def main() -> None:
    work_offline()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 96
    folder = Path(tempfile.mkdtemp())
    try:
        workspace, params = prepared(folder / "workspace", count)
        equal = params.train.model_copy(update={"max_steps": EQUAL_STEPS, "eval_steps": EQUAL_STEPS})
        paces: dict[str, list[float]] = {"bare": [], "refit": []}
        keep_freed_memory()
        bare(equal.model_copy(update={"max_steps": 1}), workspace, folder / "first")
        take: dict[str, Callable[[Path], float]] = {
            "bare": lambda folder: bare(equal, workspace, folder),
            "refit": lambda folder: pace(trained(equal, workspace, folder).history),
        }
        for turn in range(TURNS):
            for who in sorted(take, reverse=bool(turn % 2)):
                paces[who].append(take[who](folder / f"{who}-{turn}"))
        ratios = [refit / peer for refit, peer in zip(paces["refit"], paces["bare"], strict=True)]
        print(f"at equal settings: {paces['refit'][-1]:.0f} tokens/s, bare SFTTrainer {paces['bare'][-1]:.0f}")
        print(f"ratio {median(ratios):.2f} (turns: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")

        section = params.train.model_copy(update={"eval_steps": 10_000})
        own = trained(section, workspace, folder / "own")
        seconds = next(float(str(entry["train_runtime"])) for entry in own.history if "train_runtime" in entry)
        peer_seconds, left = trl_sft(workspace, folder / "trl")
        labels = load_split(workspace.prepared / "train.parquet", section)["labels"].to_pylist()
        supervised = sum(label != -100 for row in labels for label in row)
        paces_supervised = f"{supervised / seconds:.0f} a second, `trl sft` {supervised / peer_seconds:.0f}"
        print(f"{supervised} supervised tokens of {len(labels)} rows: {paces_supervised}")
        print(f"ratio {peer_seconds / seconds:.2f}")
        from transformers import AutoModelForCausalLM

        losses = [
            reply_loss(model, workspace, section)
            for model in (
                AutoModelForCausalLM.from_pretrained(workspace.base, dtype="float32"),
                _merged(section, workspace.base, weights_of(folder / "own")),
                AutoModelForCausalLM.from_pretrained(left, dtype="float32"),
            )
        ]
        print("reply loss on the eval split: base {:.3f}, refit {:.3f}, `trl sft` {:.3f}".format(*losses))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s in all")
