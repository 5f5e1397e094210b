"""What `train` refuses, how it reads its section, and when a checkpoint may be gone on from; the rest is in tests/integration."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.checkpoints import COMPLETE, fingerprint, last_complete_checkpoint, make_room, mark_complete
from tasks.errors import ParamsError, TrainingError
from tasks.fit import Fit
from tasks.overrides import overridden
from tasks.params import load_params
from tasks.pictures import read_curve
from tasks.reply_scores import last_reply
from tasks.sft_config import Batch, asks_more, attention
from tasks.train import _write_curves
from tasks.training_checks import check_changed, check_losses, check_supervision, only_last_replies
from tasks.training_section import Train

PARAMS = Path(__file__).parents[2] / "params.yaml"
SECTION = load_params(PARAMS).train
EOS = 2
LABELS = pa.list_(pa.int32())


def table(*chunks: list[list[int]]) -> pa.Table:
    """Labels of some rows, each list a chunk."""
    return pa.table({"labels": pa.chunked_array([pa.array(rows, LABELS) for rows in chunks], LABELS)})


def source(row: int) -> str:
    return f"made.jsonl:{row + 1}"


@pytest.mark.parametrize("rows", [[[-100, 5, EOS]], [[-100, 5, EOS, -100], [5, EOS, -100, 6, EOS, -100, -100]], []])
def test_rows_that_teach_and_end_are_taken(rows: list[list[int]]) -> None:
    check_supervision(table(rows, rows), EOS, "train", source)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([-100, -100], "no supervised token"),
        ([], "no supervised token"),
        ([-100, 5, 6], "not the end-of-turn token"),
        ([5, EOS, 6, -100], "not the end-of-turn token"),
    ],
)
@pytest.mark.parametrize("last", [False, True], ids=["then others", "at the end"])
def test_a_row_that_teaches_nothing_or_no_end_is_named(row: list[int], words: str, last: bool) -> None:
    rows = [[5, EOS], row] if last else [[5, EOS], row, [-100]]
    with pytest.raises(TrainingError, match=rf"eval row 1 \(made\.jsonl:2\): .*{words}"):
        check_supervision(table(rows), EOS, "eval", source)
    with pytest.raises(TrainingError, match=rf"eval row 3 \(made\.jsonl:4\): .*{words}"):
        check_supervision(table([[5, EOS], [7, EOS]], rows).slice(0), EOS, "eval", source)
    with pytest.raises(TrainingError, match=rf"eval row 0 \(made\.jsonl:1\): .*{words}"):
        check_supervision(table(rows).slice(1), EOS, "eval", source)


def test_only_the_last_run_of_labels_is_left() -> None:
    rows = [[5, EOS], [-100, 5, EOS, -100, 6, EOS, -100], [4, EOS, -100, -100, 7], [-100], []]
    wanted = [[5, EOS], [-100, -100, -100, -100, 6, EOS, -100], [-100, -100, -100, -100, 7], [-100], []]
    assert only_last_replies(table(rows, rows[1:3]))["labels"].to_pylist() == [*wanted, *wanted[1:3]]
    assert only_last_replies(table(rows).slice(1, 2))["labels"].to_pylist() == wanted[1:3]
    assert only_last_replies(table([])).num_rows == 0


@pytest.mark.parametrize(
    ("labels", "span"),
    [([5, EOS], (0, 2)), ([-100, 5, EOS, -100], (1, 3)), ([5, EOS, -100, 6, EOS], (3, 5)), ([-100, 5], (1, 2))],
)
def test_the_last_reply_is_found(labels: list[int], span: tuple[int, int]) -> None:
    assert last_reply(labels) == span


def test_losses_that_are_numbers_are_taken() -> None:
    check_losses([3.0, 1e-9], [2.0])


@pytest.mark.parametrize("loss", [0.0, math.nan, math.inf, -math.inf])
def test_a_loss_that_is_zero_or_no_number_is_named(loss: float) -> None:
    with pytest.raises(TrainingError, match=rf"logged loss 2 is {loss}; .*train\.learning_rate"):
        check_losses([1.0, loss, math.nan], [1.0])


@pytest.mark.parametrize("losses", [[], [math.nan], [1.0, math.inf]])
def test_eval_losses_that_are_no_numbers_are_refused(losses: list[float]) -> None:
    with pytest.raises(TrainingError, match="eval losses are"):
        check_losses([1.0], losses)


def test_a_training_that_logged_no_loss_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"no loss was logged.*train\.logging_steps"):
        check_losses([], [2.0, 1.0])


def test_a_parameter_that_stayed_is_named_unless_it_had_no_time_to_move() -> None:
    before, after = {"a": 1, "b": 2, "c": 3}, {"a": 9, "b": 2, "c": 3}
    check_changed(before, {"a": 9, "b": 8, "c": 7}, 3)
    check_changed(before, after, 2)
    with pytest.raises(TrainingError, match="2 of 3 trainable parameters are the same after 3 steps, the first is b;"):
        check_changed(before, after, 3)


@pytest.mark.parametrize(
    ("batch", "wanted"),
    [((8, 1), (4, 2)), ((6, 2), (3, 4)), ((3, 2), (1, 6)), ((5, 1), (1, 5)), ((2, 4), (1, 8)), ((1, 8), None)],
)
def test_a_smaller_batch_has_as_many_rows_a_step(batch: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    assert Batch(*batch).smaller() == (wanted and Batch(*wanted))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.sft={learning_rate: 0.1}", "learning_rate may not stand here: set train.learning_rate itself"),
        ("train.sft={push_to_hub: true}", "push_to_hub may not stand here: the stage push publishes"),
        (
            "train.sft={trust_remote_code: true}",
            "trust_remote_code may not stand here: code that comes with a model is never run",
        ),
        ("train.sft={max_length: 12}", "max_length may not stand here"),
        ("train.sft={packing: true}", "packing needs max_length here too"),
        ("train.merge=false", "train.merge: false needs base.source: hub"),
        ("train.early_stopping_patience=2", "early_stopping_patience needs metric_for_best_model"),
        ("train.metric_for_best_model=eval_chrf", "eval_chrf needs predict_with_generate"),
        ("train.accelerate_config=/etc/passwd", "must lie below deployments/accelerate"),
        ("train.accelerate_config=deployments/accelerate/../../x", "must lie below deployments/accelerate"),
        ("train.checkpoints_gb=0", "checkpoints_gb: found 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_before_anything_runs(setting: str, words: str) -> None:
    with pytest.raises(ParamsError) as error:
        overridden(PARAMS, [setting])
    assert words in str(error.value)


def test_any_other_field_of_trl_may_be_set_by_its_name() -> None:
    section = overridden(PARAMS, ["train.sft.neftune_noise_alpha=5", "train.sft.loss_type=dft"]).train
    assert section.sft == {"neftune_noise_alpha": 5, "loss_type": "dft"}
    assert asks_more(section)
    assert not asks_more(SECTION)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of the libraries, to be changed."""
    known = dict.fromkeys(("torch", "transformers", "trl", "peft", "accelerate"), "1.0")
    monkeypatch.setattr("tasks.checkpoints.metadata.version", known.__getitem__)
    return known


OTHER_VALUES: dict[str, Any] = {
    "method": "full",
    "start_from": "champion",
    "lora": SECTION.lora.model_copy(update={"r": 999}),
    "merge": False,
    "dtype": "bfloat16",
    "seed": 999,
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "warmup_steps": 999.0,
    "weight_decay": 0.5,
    "num_train_epochs": 99.0,
    "max_steps": 999,
    "per_device_train_batch_size": 999,
    "gradient_accumulation_steps": 999,
    "completion_only_loss": True,
    "logging_steps": 999,
    "eval_steps": 999,
    "predict_with_generate": True,
    "metric_for_best_model": "eval_loss",
    "early_stopping_patience": 999,
    "checkpoints_gb": 999.0,
    "accelerate_config": "deployments/accelerate/cpu2.yaml",
    "sft": {"loss_type": "dft"},
}


def test_a_checkpoint_belongs_to_every_parameter_but_those_that_change_none(versions: dict[str, str]) -> None:
    assert set(OTHER_VALUES) == set(Train.model_fields), "add the new parameter to OTHER_VALUES"
    sections = [SECTION, *(SECTION.model_copy(update={name: value}) for name, value in OTHER_VALUES.items())]
    prints = {fingerprint(section, "base", "data", "") for section in sections}
    assert len(prints) == len(OTHER_VALUES) + 1 - len({"checkpoints_gb", "merge"})


def test_a_checkpoint_belongs_to_base_data_devices_and_libraries(versions: dict[str, str]) -> None:
    pairs = (("base", "data", ""), ("other", "data", ""), ("base", "other", ""), ("data", "base", ""), ("base", "data", "two"))
    prints = [fingerprint(SECTION, *pair) for pair in pairs]
    for name in versions:
        versions[name] = "1.1"
        prints.append(fingerprint(SECTION, "base", "data", ""))
    assert len(set(prints)) == len(prints) == 10
    versions.update(dict.fromkeys(versions, "1.0"))
    assert fingerprint(SECTION.model_copy(deep=True), "base", "data", "") == prints[0]


def checkpoint(folder: Path, step: int, complete: bool = True, steps: int = 1000) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": steps}))
    if complete:
        mark_complete(path)
    return path


@pytest.mark.parametrize(
    ("device", "installed", "dtype", "quickest"),
    [
        ("cuda", ["flash_attn"], "bfloat16", "flash_attention_2"),
        ("cuda", ["flash_attn"], "float32", "sdpa"),
        ("cuda", [], "float16", "sdpa"),
        ("cpu", ["flash_attn"], "bfloat16", "sdpa"),
    ],
)
def test_flash_attention_is_taken_where_it_is_and_applies(
    monkeypatch: pytest.MonkeyPatch, device: str, installed: list[str], dtype: str, quickest: str
) -> None:
    monkeypatch.setattr("tasks.sft_config.pick_device", lambda: device)
    monkeypatch.setattr("tasks.sft_config.find_spec", lambda name: name if name in installed else None)
    assert attention(dtype) == quickest


def test_the_newest_complete_checkpoint_is_taken_by_its_number(tmp_path: Path) -> None:
    for step in (25, 50, 75):
        checkpoint(tmp_path, step)
    newest = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 125, complete=False)
    (tmp_path / "runs").mkdir()
    (tmp_path / "checkpoint-of-mine").mkdir()
    assert last_complete_checkpoint(tmp_path) == newest


def test_without_a_complete_checkpoint_training_starts_anew(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path / "absent") is None
    checkpoint(tmp_path, 25, complete=False)
    assert last_complete_checkpoint(tmp_path) is None


@pytest.mark.parametrize("harm", ["cut", "lost", "flipped", "state", "marker"])
def test_a_checkpoint_that_was_harmed_is_skipped(tmp_path: Path, harm: str) -> None:
    before = checkpoint(tmp_path, 25)
    newest = checkpoint(tmp_path, 50)
    if harm == "cut":
        os.truncate(newest / "model.safetensors", 3)
    elif harm == "lost":
        (newest / "model.safetensors").unlink()
    elif harm == "flipped":
        (newest / "model.safetensors").write_bytes(b"Weights")
    elif harm == "state":
        (newest / "trainer_state.json").write_text("{" + " " * ((newest / "trainer_state.json").stat().st_size - 1))
    else:
        (newest / COMPLETE).write_text("")
    assert last_complete_checkpoint(tmp_path) == before


def test_the_checkpoint_of_the_last_step_is_not_gone_on_from(tmp_path: Path) -> None:
    before = checkpoint(tmp_path, 25, steps=50)
    checkpoint(tmp_path, 50, steps=50)
    assert last_complete_checkpoint(tmp_path) == before


def test_what_was_untouched_for_longest_is_dropped_until_the_rest_fits(tmp_path: Path) -> None:
    for age, name in enumerate(("newer", "older", "oldest")):
        checkpoint(tmp_path / name, 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    keep = tmp_path / "keep"
    checkpoint(keep, 10)
    os.utime(keep, (1, 1))
    each = sum(path.stat().st_size for path in (keep / "checkpoint-10").iterdir())
    assert make_room(tmp_path, keep, 4 * each) == []
    assert make_room(tmp_path, keep, 3 * each - 1) == [tmp_path / "oldest", tmp_path / "older"]
    assert make_room(tmp_path, keep, 0) == [tmp_path / "newer"]
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


def test_curves_hold_what_was_logged_at_its_step(tmp_path: Path) -> None:
    history: list[dict[str, Any]] = [
        {"step": 0, "eval_loss": 3.0, "eval_chrf": 5.0},
        {"step": 1, "loss": 2.5, "learning_rate": 0.1},
        {"step": 2, "loss": 2.25},
        {"step": 2, "eval_loss": 2.0},
        {"step": 2, "eval_chrf": 9.0},
        {"step": 2, "train_runtime": 9.0},
    ]
    fit = Fit(
        steps=2,
        best_step=None,
        epochs=1.0,
        n_parameters=1,
        n_trainable=1,
        n_processes=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        history=history,
        probe=[],
    )
    _write_curves(fit, tmp_path)
    assert (tmp_path / "train.csv").read_text() == "step,loss,learning_rate\n1,2.5,0.1\n2,2.25,\n"
    assert (tmp_path / "eval.csv").read_text() == "step,eval_loss,eval_chrf\n0,3.0,5.0\n2,2.0,9.0\n"
    assert read_curve(tmp_path / "train.csv") == [(1, 2.5), (2, 2.25)]
    assert read_curve(tmp_path / "eval.csv") == [(0, 3.0), (2, 2.0)]
