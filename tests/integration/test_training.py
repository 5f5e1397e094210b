"""Training for real on a tiny model: what is resumed, what is refused, what each method leaves, and what is saved."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.chat import Encoder, Message, load_tokenizer
from tasks.errors import BaseModelError, InputError, TrainingError
from tasks.files import tree_digest
from tasks.fit import Fit
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.records import TrainedModel
from tasks.sft_config import Batch, _arguments, precisions, speed_ups
from tasks.train import train
from tasks.warm_start import starting_model
from tests.conftest import REPO, edit_params
from tests.integration.running import refused

TRAIN = [sys.executable, "-m", "tasks.train"]
SMALL = {
    "train.dtype": "float32",  # the same numbers on every machine
    "train.learning_rate": 0.01,
    "train.max_steps": 8,
    "train.eval_steps": 3,
    "train.lora.layers_to_transform": None,
    "train.lora.lora_dropout": 0.1,  # draws random numbers, so that a resumed training must go on in their middle
    "train.lora.r": 4,
}
LORA = {"train.method": "lora"}
Prepare = Callable[..., Workspace]


def conversations(first: int, last: int) -> list[list[Message]]:
    """Of two turns, each with its number in it, of different lengths."""
    return [
        [
            {"role": "user", "content": f"Where is order {number}? {'It is late. ' * (number % 5)}"},
            {"role": "assistant", "content": f"[delivery | low]\nOrder {number} is on its way."},
            {"role": "user", "content": "When will it be here?"},
            {"role": "assistant", "content": f"[delivery | normal]\nIn {number % 7 + 1} days."},
        ]
        for number in range(first, last)
    ]


@pytest.fixture
def prepared(tmp_path: Path, tiny_base: Path) -> Prepare:
    """A workspace as the stages before `train` leave it, with 40 rows to train on and 6 to watch, and without code or DVC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(name: str = "workspace", **settings: Any) -> Workspace:
        workspace = Workspace(tmp_path / name)
        shutil.copytree(REPO / "deployments" / "accelerate", workspace.root / "deployments" / "accelerate")
        for file in ("params.yaml", "dvc.yaml"):
            shutil.copyfile(REPO / file, workspace.root / file)
        edit_params(workspace, SMALL | settings)
        shutil.copytree(tiny_base, workspace.base)
        encode = Encoder(load_tokenizer(workspace.base))
        workspace.prepared.mkdir(parents=True)
        for split, first, last in (("train", 0, 40), ("eval", 40, 46)):
            tokens = encode(conversations(first, last))
            columns = {
                "input_ids": [row["input_ids"] for row in tokens],
                "labels": [row["labels"] for row in tokens],
                "n_tokens": [len(row["input_ids"]) for row in tokens],
                "source": [f"data/raw/made.jsonl:{number}" for number in range(first + 1, last + 1)],
            }
            lists = pa.list_(pa.int32())
            schema = {"input_ids": lists, "labels": lists, "n_tokens": pa.int64(), "source": pa.string()}
            pq.write_table(pa.table(columns, schema=pa.schema(list(schema.items()))), workspace.prepared / f"{split}.parquet")
        return workspace

    return make


def run(workspace: Workspace) -> TrainedModel:
    """The stage, in this process."""
    params = load_params(workspace.params)
    return train(params.train, starting_model(params, workspace), workspace)


def logged(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> tuple[TrainedModel, Fit]:
    """A training with what transformers logged."""
    import tasks.train

    found: list[Fit] = []

    def keep(fit: Fit, folder: Path) -> None:
        found.append(fit)

    monkeypatch.setattr(tasks.train, "_write_curves", keep)
    record = run(workspace)
    return record, found[0]


def losses(fit: Fit) -> list[tuple[float, float]]:
    """Loss and learning rate of each step."""
    return list(zip(fit.values("loss"), fit.values("learning_rate"), strict=True))


class Killed(BaseException):
    """What a test raises in the place of a SIGKILL."""


def die(*_: object) -> None:
    raise Killed


def die_in(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training end without a word in the middle of a step."""
    from tasks.sft_trainer import Trainer

    whole = Trainer.training_step

    def training_step(self: Any, *arguments: Any, **settings: Any) -> Any:
        if self.state.global_step == step - 1:
            raise Killed
        return whole(self, *arguments, **settings)

    monkeypatch.setattr(Trainer, "training_step", training_step)


@pytest.mark.parametrize(
    "settings",
    [
        {"train.method": "lora"},
        {"train.method": "full"},
        {"train.method": "lora", "train.gradient_accumulation_steps": 2},
        {"train.method": "lora", "train.sft": {"train_sampling_strategy": "random"}},
    ],
    ids=["lora", "full", "accumulated", "random order"],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    """In the middle of the second epoch of 10 steps."""
    rows = 4 // settings.get("train.gradient_accumulation_steps", 1)
    settings = {**settings, "train.per_device_train_batch_size": rows, "train.max_steps": 16}
    whole = prepared("whole", **settings)
    with monkeypatch.context() as patch:
        record, uninterrupted = logged(whole, patch)
    broken = prepared("broken", **settings)
    with monkeypatch.context() as patch:
        die_in(15, patch)
        with pytest.raises(Killed):
            run(broken)
    capfd.readouterr()
    resumed_record, resumed = logged(broken, monkeypatch)
    assert "resumed from checkpoint-12" in capfd.readouterr().out
    assert losses(resumed) == losses(uninterrupted)
    assert resumed.values("eval_loss") == uninterrupted.values("eval_loss")
    assert resumed_record.digest == record.digest
    assert not list(broken.checkpoints.glob("*"))


def test_what_died_after_the_last_step_is_not_trained_again(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import tasks.train

    workspace = prepared(**LORA)
    with monkeypatch.context() as patch:
        patch.setattr(tasks.train, "check_saved", die)
        with pytest.raises(Killed):
            run(workspace)
    capfd.readouterr()
    record = run(workspace)
    assert "step" not in capfd.readouterr().out
    assert record.steps == 8
    assert record.digest == run(prepared("again", **LORA)).digest


def test_a_training_that_died_at_its_last_checkpoint_does_not_go_beyond(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tasks.fit

    whole = run(prepared("whole", **LORA))
    workspace = prepared(**LORA)
    with monkeypatch.context() as patch:
        patch.setattr(tasks.fit, "check_losses", die)
        with pytest.raises(Killed):
            run(workspace)
    assert list(workspace.checkpoints.glob("*/checkpoint-8/COMPLETE"))
    record = run(workspace)
    assert (record.steps, record.digest) == (8, whole.digest)


def test_sigterm_saves_a_checkpoint_and_leaves(prepared: Prepare, capfd: pytest.CaptureFixture[str]) -> None:
    whole = run(prepared("whole", **LORA, **{"train.max_steps": 100, "train.eval_steps": 99}))
    workspace = prepared(**LORA, **{"train.max_steps": 100, "train.eval_steps": 99})
    process = subprocess.Popen(TRAIN, cwd=workspace.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 5/100"):
            break
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    saved = int(rest.rpartition("saved checkpoint-")[2])
    assert 5 <= saved < 99
    assert not workspace.record("train").exists()
    assert run(workspace).digest == whole.digest
    assert f"resumed from checkpoint-{saved}\n" in capfd.readouterr().out


SCORED = {
    "train.method": "full",
    "train.max_steps": 60,
    "train.learning_rate": 1.0,
    "train.lr_scheduler_type": "linear",
    "train.warmup_steps": 60,
    "train.predict_with_generate": True,
}
"""With a rate that ruins what it trained, so that the best step is not the last one."""


@pytest.mark.parametrize("metric", ["eval_loss", "eval_chrf"])
def test_ended_in_an_evaluation_and_resumed_equals_uninterrupted(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], metric: str
) -> None:
    """Best step and patience too, though the evaluation of one step was cut off; with eval_chrf among the replies."""
    from tasks.checkpoints import lacks_evaluation
    from tasks.sft_trainer import Watch

    settings = {**SCORED, "train.metric_for_best_model": metric, "train.early_stopping_patience": 3}
    with monkeypatch.context() as patch:
        record, uninterrupted = logged(prepared("whole", **settings), patch)
    assert record.steps < 60
    broken, looks = prepared("broken", **settings), 0
    told = record.steps - 3

    def agreed(self: Any) -> bool:
        nonlocal looks
        looks += self.trainer_state.global_step == told
        return bool(looks > (2 if metric == "eval_loss" else 3))

    def remember(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer_state = state
        begin(self, args, state, control)

    begin = Watch.on_train_begin
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_train_begin", remember)
        patch.setattr(Watch, "_agreed", agreed)
        with pytest.raises(SystemExit) as left:
            run(broken)
    assert left.value.code == 128 + signal.SIGTERM
    assert f"saved checkpoint-{told}\n" in capfd.readouterr().out
    (checkpoint,) = broken.checkpoints.glob(f"*/checkpoint-{told}")
    assert lacks_evaluation(checkpoint, eval_steps=3)
    resumed_record, resumed = logged(broken, monkeypatch)
    assert f"resumed from checkpoint-{told}\n" in capfd.readouterr().out
    assert resumed.values("eval_loss") == uninterrupted.values("eval_loss")
    assert resumed.values("eval_chrf") == uninterrupted.values("eval_chrf")
    assert (resumed_record.steps, resumed_record.best_step) == (record.steps, record.best_step)
    assert resumed_record.digest == record.digest


def test_logits_are_computed_of_supervised_positions_only(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU too, with the loss that TRL has of all positions."""
    from trl.trainer import utils

    from tasks.sft_trainer import Trainer

    scored, positions, supervised = utils._ChunkedLogProbFunction, [], []

    class Counting:
        @staticmethod
        def apply(hidden: Any, *arguments: Any) -> Any:
            positions.append(hidden.shape[0])
            return scored.apply(hidden, *arguments)

    def training_step(self: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> None:
        supervised.append(int((inputs["labels"][:, 1:] != -100).sum()))
        ours = self.compute_loss(model, dict(inputs)).item()
        with monkeypatch.context() as patch:
            patch.setattr(utils, "_use_triton", lambda device: False)
            assert ours == pytest.approx(self.compute_loss(model, dict(inputs)).item(), rel=1e-5)
        raise Killed

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(Killed):
        run(prepared())
    assert positions[-2] == supervised[0] < positions[-1]


def test_a_loss_that_is_no_number_names_its_rows(prepared: Prepare) -> None:
    """The base model says nan at one token, which one row of the training alone has."""
    import torch
    from safetensors.torch import load_file, save_file

    workspace = prepared(**{"train.method": "full", "train.num_train_epochs": 2, "train.max_steps": -1})
    tokenizer = load_tokenizer(workspace.base)
    weights = load_file(workspace.base / "model.safetensors")
    rows = [set(row) for row in _column(workspace, "input_ids")]
    only, token = next(
        (number, token)
        for number, row in enumerate(rows)
        for token in row
        if sum(token in other for other in rows) == 1 and token not in tokenizer.all_special_ids
    )
    weights["model.embed_tokens.weight"][token] = torch.nan
    weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"]) / 8
    save_file(weights, workspace.base / "model.safetensors", {"format": "pt"})
    config = json.loads((workspace.base / "config.json").read_text())
    (workspace.base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(TrainingError, match=r"the loss is nan in step \d+, on the rows .*train\.learning_rate") as error:
        run(workspace)
    named = str(error.value).partition("on the rows ")[2].partition(";")[0].split(", ")
    assert f"data/raw/made.jsonl:{only + 1}" in named
    assert len(named) == 4


def test_a_gradient_that_is_no_number_stops_the_training(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from trl import SFTTrainer

    monkeypatch.setattr(SFTTrainer, "_clip_grad_norm", lambda self, model: torch.tensor(torch.inf))
    with pytest.raises(TrainingError, match=r"norm of the gradient is inf in step 1, on the rows data/raw/made\.jsonl:"):
        run(prepared(**LORA))


def test_weights_that_do_not_move_are_named(prepared: Prepare) -> None:
    with pytest.raises(TrainingError, match=r"\d+ of \d+ trainable parameters are the same after 8 steps.*train\.learning_rate"):
        run(prepared(**{"train.method": "full", "train.learning_rate": 1e-30}))


def test_memory_that_runs_out_halves_the_batch_and_not_the_step(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from trl import SFTTrainer

    settings = {**LORA, "train.lora.lora_dropout": 0.0}
    with monkeypatch.context() as patch:
        _, roomy = logged(prepared("roomy", **settings), patch)
    whole = SFTTrainer.training_step

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *arguments: Any, **settings: Any) -> Any:
        if len(inputs["input_ids"]) > 1 and self.state.global_step >= 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried …")
        return whole(self, model, inputs, *arguments, **settings)

    monkeypatch.setattr(SFTTrainer, "training_step", training_step)
    record, tight = logged(prepared("tight", **settings), monkeypatch)
    assert (record.per_device_train_batch_size, record.gradient_accumulation_steps) == (1, 4)
    out = capfd.readouterr().out
    assert "out of memory; on with batches of 2 and 2 of them a step" in out
    assert "out of memory; on with batches of 1 and 4 of them a step" in out
    assert tight.values("loss") == pytest.approx(roomy.values("loss"), rel=1e-4)


ONE_RUNS_OUT = """\
import os
if os.environ.get("RANK") == "1":
    from trl import SFTTrainer
    whole = SFTTrainer.training_step
    def training_step(self, model, inputs, *arguments, **settings):
        if len(inputs["input_ids"]) > 1 and self.state.global_step >= 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")
        return whole(self, model, inputs, *arguments, **settings)
    SFTTrainer.training_step = training_step
"""


def test_memory_that_runs_out_in_one_of_two_processes_halves_the_batch_of_both(prepared: Prepare, tmp_path: Path) -> None:
    settings = {**LORA, "train.lora.lora_dropout": 0.0, "train.per_device_train_batch_size": 2}
    settings["train.accelerate_config"] = "deployments/accelerate/cpu2.yaml"
    whole = run(prepared("roomy", **settings))
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(ONE_RUNS_OUT)
    workspace = prepared("tight", **settings)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'path'}"}
    done = subprocess.run(TRAIN, cwd=workspace.root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("out of memory; on with batches of 1 and 2 of them a step") == 1
    assert "resumed from checkpoint-3" in done.stdout
    record = TrainedModel.read(workspace.record("train"))
    assert (record.n_processes, record.per_device_train_batch_size, record.gradient_accumulation_steps) == (2, 1, 2)
    assert record.eval_loss_after == pytest.approx(whole.eval_loss_after, rel=1e-3)


def test_memory_that_does_not_do_for_one_row_is_told(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    def training_step(self: Any, *arguments: Any, **settings: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(SFTTrainer, "training_step", training_step)
    with pytest.raises(TrainingError, match="out of memory with one row at a time"):
        run(prepared(**LORA))


@pytest.mark.parametrize(
    "settings",
    [
        {"train.lora.use_rslora": True},
        {"train.lora.use_dora": True},
        {"train.sft": {"neftune_noise_alpha": 5}},
        {"train.sft": {"loss_type": "dft"}},
        {"train.sft": {"activation_checkpointing": True}},
        {"train.sft": {"gradient_checkpointing": True}},
        {"train.sft": {"packing": True, "max_length": 256}},
        {"train.sft": {"full_determinism": True, "optim": "adafactor"}},
        {"train.completion_only_loss": True},
        {"train.dtype": "bfloat16"},
    ],
    ids=lambda settings: next(iter(settings)).removeprefix("train.") + str(next(iter(settings.values()))),
)
def test_each_method_trains_another_model_that_is_saved_as_trained(
    prepared: Prepare, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, fit = logged(prepared(**LORA, **settings), monkeypatch)
    assert record.merge_error is not None
    assert record.merge_error < (0.05 if record.dtype == "bfloat16" else 1e-4)
    if "dft" not in str(settings):  # its loss is another one, and rises as the model learns
        assert fit.values("eval_loss")[-1] < fit.values("eval_loss")[0]
    if "gradient_checkpointing" not in str(settings) and "activation" not in str(settings):
        plain, _ = logged(prepared("plain", **LORA), monkeypatch)
        assert record.digest != plain.digest


TRACKIO = """\
import os
class TrackioError(Exception): ...
def init(*_, **__):
    raise TrackioError(f"no\\ndatabase in {os.environ['TRACKIO_DIR']}")
"""


def test_a_tracker_that_fails_is_named_and_was_to_write_into_the_cache(prepared: Prepare, tmp_path: Path) -> None:
    """Trackio, in what of it transformers calls first."""
    package = tmp_path / "packages" / "trackio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TRACKIO)
    workspace = prepared(**{"train.sft": {"report_to": "trackio"}})
    env = {name: value for name, value in os.environ.items() if name != "TRACKIO_DIR"} | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(TRAIN, cwd=workspace.root, env=env, capture_output=True, text=True, check=False)
    place = workspace.root / ".cache" / "trackio"
    assert f"train.sft.report_to: trackio failed: no database in {place}" in refused(done, 1, "TrainingError")


def test_packed_rows_that_would_see_each_other_are_refused(prepared: Prepare) -> None:
    """A model that is not told where each begins takes them for one."""
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.training_checks import check_apart

    workspace = prepared()
    model = AutoModelForCausalLM.from_pretrained(workspace.base, use_cache=False)
    rows = [{"input_ids": row} for row in _column(workspace, "input_ids")[:2]]

    def joined(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]])}

    def told(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        return joined(rows) | {"position_ids": torch.tensor([[place for row in rows for place in range(len(row["input_ids"]))]])}

    check_apart(model, told, rows)
    with pytest.raises(TrainingError, match=r"packed rows see each other \(logits differ by .*FlashAttention 2"):
        check_apart(model, joined, rows)


def test_replies_are_scored_and_the_best_checkpoint_is_taken(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """And training ends before its time."""
    settings = {**SCORED, "train.metric_for_best_model": "eval_loss", "train.early_stopping_patience": 2}
    record, fit = logged(prepared(**settings), monkeypatch)
    scores = fit.values("eval_loss")
    assert record.best_step == 3 * scores.index(min(scores)) > 0
    assert record.steps == record.best_step + 6 < 60
    assert record.eval_loss_after == min(scores)
    assert len(fit.values("eval_chrf")) == len(fit.values("eval_exact_match")) == len(scores)
    early = {**settings, "train.max_steps": record.best_step, "train.early_stopping_patience": None}
    same, _ = logged(prepared("until the best", **early), monkeypatch)
    assert same.digest == record.digest


def test_replies_are_those_that_the_model_gives(prepared: Prepare) -> None:
    """A model trained long enough on one row answers it word for word."""
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.reply_scores import generation_metrics

    workspace = prepared()
    tokenizer = load_tokenizer(workspace.base)
    (tokens,) = Encoder(tokenizer)(conversations(0, 1))
    row = {"input_ids": tokens["input_ids"].tolist(), "labels": tokens["labels"].tolist()}
    model = AutoModelForCausalLM.from_pretrained(workspace.base)
    before = generation_metrics(model, lambda: None, tokenizer, [row])
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(60):
        loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = generation_metrics(model, lambda: None, tokenizer, [row, row])
    assert before["eval_exact_match"] == 0
    assert before["eval_chrf"] < 30
    assert after == {"eval_exact_match": 1.0, "eval_chrf": pytest.approx(100)}


def test_two_processes_train_as_one_does(prepared: Prepare) -> None:
    """In each step four rows: two processes with two each, or one that takes two twice."""
    same = {"train.sft": {"train_sampling_strategy": "sequential"}, "train.lora.lora_dropout": 0.0, **LORA}
    one = run(prepared("one", **same, **{"train.per_device_train_batch_size": 2, "train.gradient_accumulation_steps": 2}))
    workspace = prepared(
        "two", **same, **{"train.per_device_train_batch_size": 2, "train.accelerate_config": "deployments/accelerate/cpu2.yaml"}
    )
    done = subprocess.run(TRAIN, cwd=workspace.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    two = TrainedModel.read(workspace.record("train"))
    assert done.stdout.count("step 8/8 loss") == 1
    assert (two.steps, two.n_trainable) == (one.steps, one.n_trainable)
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
    assert two.eval_loss_after == pytest.approx(one.eval_loss_after, rel=1e-4)
    assert two.digest == tree_digest(workspace.candidate)


def test_an_error_of_a_launched_process_is_told_as_its_own(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The launcher itself only says that a process left with 1."""
    import tasks.fit
    import tasks.sft_setup

    workspace = prepared(
        **{"train.method": "full", "train.learning_rate": 1e-30, "train.accelerate_config": "deployments/accelerate/cpu2.yaml"}
    )

    class Launcher:
        def __init__(self, command: list[str], **_: object) -> None:
            monkeypatch.setattr(sys, "argv", command[command.index("tasks.fit") :])
            monkeypatch.setattr(tasks.fit, "die_with_parent", lambda: None)
            monkeypatch.setattr(tasks.sft_setup, "_check_processes", lambda *_: None)
            self.code = tasks.fit.main()

        def wait(self) -> int:
            return self.code

    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(subprocess, "Popen", Launcher)
    with pytest.raises(TrainingError, match="trainable parameters are the same after 8 steps"):
        run(workspace)


def test_a_launcher_that_starts_too_few_processes_is_told(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.sft_setup import _check_processes

    workspace = prepared(**{"train.accelerate_config": "deployments/accelerate/cpu2.yaml"})
    monkeypatch.chdir(workspace.root)
    with pytest.raises(TrainingError, match="wants 2 processes, and `accelerate launch` started 1"):
        _check_processes(load_params(workspace.params).train, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train.sft": {"neftune_noise": 5}}, r"train\.sft\.neftune_noise: TRL .* has no such field.*neftune_noise_alpha\?"),
        ({"train.sft": {"report_to": "tensorboard"}}, "train: trl .* refuses these values: .*tensorboard"),
        ({"train.sft": {"optim": "adamw_of_mine"}}, "refuses these values: .*adamw_of_mine"),
        ({"train.sft": {"packing": True, "max_length": 20}}, r"train\.sft\.max_length is 20, and a row has"),
        ({"train.method": "qlora"}, "qlora needs CUDA and bitsandbytes, and PyTorch sees no CUDA device"),
        ({"train.dtype": "float16"}, "float16 needs CUDA"),
        ({"train.accelerate_config": "deployments/accelerate/none.yaml"}, "no such file; `accelerate config` writes one"),
        ({"train.lora.target_modules": ["no_such_module"]}, "refuses these values: Target modules .*no_such_module"),
        ({"train.lora.layers_to_transform": [0, 7]}, r"layers_to_transform: the model has the layers 0 to 1, not \[7\]"),
    ],
    ids=["unknown field", "no tracker", "no optimizer", "short pack", "qlora", "float16", "no devices", "no module", "no layer"],
)
def test_what_cannot_be_trained_is_refused_in_words(prepared: Prepare, settings: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, TrainingError), match=words):
        run(prepared(**{**LORA, **settings}))


@pytest.mark.parametrize(
    ("tokenizer_class", "words"),
    [("Qwen2Tokenizer", "Qwen2Tokenizer, by AutoTokenizer, gives other tokens"), ("XLMRobertaTokenizer", "does not load")],
)
def test_a_tokenizer_that_others_would_load_as_another_is_refused(prepared: Prepare, tokenizer_class: str, words: str) -> None:
    workspace = prepared()
    config = workspace.base / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": tokenizer_class}))
    with pytest.raises(BaseModelError, match=words):
        run(workspace)


def _column(workspace: Workspace, name: str) -> list[Any]:
    import pyarrow.parquet as pq

    found: list[Any] = pq.read_table(workspace.prepared / "train.parquet")[name].to_pylist()
    return found


def test_a_model_is_saved_in_the_precision_of_its_base(prepared: Prepare) -> None:
    """Its weights are rounded to it; what it computes with besides, such as the frequencies of positions, is not."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    workspace = prepared(**LORA)
    AutoModelForCausalLM.from_pretrained(workspace.base).to(torch.bfloat16).save_pretrained(workspace.base)
    run(workspace)
    assert {tensor.dtype for tensor in load_file(workspace.candidate / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((workspace.candidate / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_saved_model_that_is_not_the_one_in_memory_is_refused(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlamaForCausalLM

    save = LlamaForCausalLM.save_pretrained

    def save_another(self: Any, folder: Path, *arguments: Any, **settings: Any) -> None:
        if Path(folder).name == "model":
            with torch.no_grad():
                self.lm_head.weight[5] += 1
        save(self, folder, *arguments, **settings)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_another)
    workspace = prepared(**LORA)
    with pytest.raises(TrainingError, match="the saved model, loaded again, gives other logits than the one in memory"):
        run(workspace)
    assert not workspace.record("train").exists()


def test_a_merged_model_that_says_something_else_is_refused(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the adapter's scale is lost."""
    from peft.tuners.lora import LoraModel

    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)
    with pytest.raises(TrainingError, match="the merged model differs from the trained one: logits by"):
        run(prepared(**LORA, **{"train.max_steps": 40, "train.eval_steps": 40}))


def test_a_template_is_shown_with_what_it_would_train(tiny_base: Path, tmp_path: Path) -> None:
    """The base model without its own, with one of TRL's that has the same end of turn."""
    from tasks.base import fetch_base
    from tasks.files import sha256_file
    from tasks.sections import FolderBase
    from tasks.template_preview import DEMONSTRATION, marked

    source = Path(shutil.copytree(tiny_base, tmp_path / "source"))
    (source / "chat_template.jinja").unlink()
    section = FolderBase(
        source="folder", path=str(source), sha256=sha256_file(source / "model.safetensors"), chat_template="qwen2_5_training"
    )
    fetch_base(section, tmp_path / "base", tmp_path / "base.json")
    pieces = list(marked(load_tokenizer(tmp_path / "base"), DEMONSTRATION))
    assert [text.strip() for text, supervised in pieces if supervised] == ["On its way.<|im_end|>", "Tomorrow.<|im_end|>"]
    assert "".join(text for text, _ in pieces).startswith("<|im_start|>system\nYou answer briefly.<|im_end|>")
    only = list(marked(load_tokenizer(tmp_path / "base"), DEMONSTRATION, last_only=True))
    assert [text.strip() for text, supervised in only if supervised] == ["Tomorrow.<|im_end|>"]
    assert "".join(text for text, _ in only) == "".join(text for text, _ in pieces)


def test_a_base_model_with_several_chat_templates_must_be_told_which(tiny_base: Path, tmp_path: Path) -> None:
    """The saved model has one, and whoever downloads it could not tell which of them it was trained with."""
    from tasks.base import fetch_base
    from tasks.errors import BaseModelError
    from tasks.files import sha256_file
    from tasks.sections import FolderBase, TemplateFile

    source = Path(shutil.copytree(tiny_base, tmp_path / "source"))
    template = Path(shutil.move(source / "chat_template.jinja", tmp_path / "one.jinja"))
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": name, "template": template.read_text()} for name in ("default", "tool_use")]
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    section = FolderBase(source="folder", path=str(source), sha256=sha256_file(source / "model.safetensors"), chat_template=None)
    with pytest.raises(BaseModelError, match=r"has several chat templates \(default, tool_use\); .*base\.chat_template"):
        fetch_base(section, tmp_path / "base", tmp_path / "base.json")
    chosen = TemplateFile(file=str(template), sha256=sha256_file(template))
    fetch_base(section.model_copy(update={"chat_template": chosen}), tmp_path / "base", tmp_path / "base.json")
    assert load_tokenizer(tmp_path / "base").chat_template == template.read_text()


def test_a_base_model_in_shards_is_the_same_model(tiny_base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.base import fetch_base
    from tasks.model_folder import load_model, weight_files, weights_sha256
    from tasks.sections import FolderBase
    from tasks.training_checks import logits_of

    source = Path(shutil.copytree(tiny_base, tmp_path / "source"))
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    (source / "model.safetensors").unlink()
    whole.save_pretrained(source, max_shard_size="100KB")
    assert len(weight_files(source)) > 2
    section = FolderBase(source="folder", path=str(source), sha256=weights_sha256(source), chat_template=None)
    record = fetch_base(section, tmp_path / "base", tmp_path / "base.json")
    assert set(weight_files(source)) <= set(record.files)
    probe = [[1, 2, 3, 4]]
    fetched = load_model(tmp_path / "base", tmp_path / "base", torch.float32)
    assert torch.equal(logits_of(fetched, probe)[0], logits_of(whole, probe)[0])


def test_a_training_goes_on_from_the_champion(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first one starts from the base model, since nothing is published; the second where the first ended."""
    from tasks.registry import open_registry

    workspace = prepared(**{"train.method": "full", "train.start_from": "champion"})
    first, fit = logged(workspace, monkeypatch)
    assert "no version is published yet" in capfd.readouterr().out
    assert (first.start_version, first.start_digest) == (None, first.base_digest)
    registry = open_registry(load_params(workspace.params).push, workspace)
    registry.publish(workspace.candidate, first.digest, {}, None, "first")
    second, warm = logged(workspace, monkeypatch)
    assert (second.start_version, second.start_digest) == ("v1", first.digest)
    assert warm.values("eval_loss")[0] == pytest.approx(fit.values("eval_loss")[-1], rel=1e-3)
    assert second.eval_loss_after < first.eval_loss_after
    assert not workspace.champion_start.exists()

    config = workspace.base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 128}))
    with pytest.raises(InputError, match="champion v1 differs from the base model in hidden_size"):
        run(workspace)


def test_an_adapter_alone_is_the_model_that_was_trained(prepared: Prepare) -> None:
    """It names its base on the Hub; scored on it, loaded by PEFT, and refused on another base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tasks.champion import champion
    from tasks.errors import RegistryError
    from tasks.model_folder import base_of, load_model
    from tasks.records import BaseModelRecord
    from tasks.registry import open_registry
    from tasks.training_checks import logits_of

    hub = {"source": "hub", "repo_id": "owner/tiny", "revision": "a" * 40, "sha256": "b" * 64, "chat_template": None}
    workspace = prepared(**LORA, **{"base": hub, "train.merge": False})
    base = BaseModelRecord(source=f"owner/tiny@{'a' * 40}", digest="c" * 64, files={}, n_parameters=1)
    base.write(workspace.record("base"))
    record = run(workspace)
    names = {path.name for path in workspace.candidate.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"model.safetensors", "config.json", "training_args.bin"}
    assert record.digest == tree_digest(workspace.candidate)
    assert base_of(workspace.candidate) == base.source

    probe = _column(workspace, "input_ids")[:2]
    ours = logits_of(load_model(workspace.candidate, workspace.base, torch.float32), probe)
    plain = AutoModelForCausalLM.from_pretrained(workspace.base, dtype=torch.float32)
    before = logits_of(plain, probe)
    theirs = logits_of(PeftModel.from_pretrained(plain, workspace.candidate), probe)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert not any(torch.allclose(one, other) for one, other in zip(ours, before, strict=True))
    merged = run(prepared("merged", **LORA))
    assert merged.eval_loss_after == record.eval_loss_after

    registry = open_registry(load_params(workspace.params).push, workspace)
    registry.publish(workspace.candidate, record.digest, {}, None, "first")
    workspace.record("train").unlink()
    assert champion(registry, workspace).version == "v1"
    base.model_copy(update={"source": f"owner/tiny@{'d' * 40}"}).write(workspace.record("base"))
    with pytest.raises(
        RegistryError, match=r"champion v1 is an adapter of owner/tiny@a{40}, and the base model is owner/tiny@d{40}"
    ):
        champion(registry, workspace)
    edit_params(workspace, {"train.merge": True, "train.start_from": "champion"})
    with pytest.raises(InputError, match="champion v1 is an adapter"):
        run(workspace)


@pytest.mark.parametrize(
    ("method", "dtype", "ampere", "wanted"),
    [
        ("full", "bfloat16", True, {"bf16": True, "fp16": False, "tf32": None, "weights": "float32"}),
        ("full", "float16", True, {"bf16": False, "fp16": True, "tf32": None, "weights": "float32"}),
        ("full", "float32", True, {"bf16": False, "fp16": False, "tf32": True, "weights": "float32"}),
        ("lora", "float32", False, {"bf16": False, "fp16": False, "tf32": None, "weights": "float32"}),
        ("lora", "bfloat16", True, {"bf16": True, "fp16": False, "tf32": None, "weights": "bfloat16"}),
    ],
)
def test_a_training_on_cuda_uses_what_the_device_has(
    monkeypatch: pytest.MonkeyPatch, method: str, dtype: str, ampere: bool, wanted: dict[str, Any]
) -> None:
    """Only what is asked for: no such device was at hand."""
    monkeypatch.setattr("tasks.sft_config.pick_device", lambda: "cuda")
    monkeypatch.setattr("tasks.sft_config._has_tf32", lambda: ampere)
    monkeypatch.setattr("tasks.sft_config.find_spec", lambda name: name if name == "liger_kernel" else None)
    section = load_params(REPO / "params.yaml").train.model_copy(update={"method": method, "dtype": dtype})
    arguments = _arguments(section, Path("out"), Batch(4, 1))
    assert {**{name: arguments.get(name) for name in wanted}, "weights": precisions(section)[0]} == wanted
    assert (arguments["use_liger_kernel"], arguments["use_cpu"], arguments["dataloader_pin_memory"]) == (True, False, True)
    told = speed_ups(SimpleNamespace(tf32=arguments["tf32"], use_liger_kernel=True), dtype)
    assert told == ["sdpa attention", *(["tf32"] if wanted["tf32"] else []), "Liger kernels"]
