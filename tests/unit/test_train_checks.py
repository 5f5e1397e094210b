"""What `train` refuses, and when a checkpoint may be gone on from. The training itself is proved in tests/integration and e2e."""

import math
from pathlib import Path
from typing import Any

import pytest

from tasks import train as stage
from tasks.errors import TrainingError
from tasks.params import load_params
from tasks.pictures import read_curve
from tasks.sections import Train
from tasks.train import COMPLETE, check_losses, check_supervision, fingerprint, last_complete_checkpoint

SECTION = load_params(Path(__file__).parents[2] / "params.yaml").train
EOS = 2


@pytest.mark.parametrize("rows", [[[-100, 5, EOS]], [[-100, 5, EOS, -100], [5, EOS, -100, 6, EOS, -100, -100]], []])
def test_rows_that_teach_and_end_are_taken(rows: list[list[int]]) -> None:
    check_supervision(rows, EOS, "train")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([-100, -100], "no supervised token"),
        ([], "no supervised token"),
        ([-100, 5, 6], "not the end-of-turn token"),
        ([5, EOS, 6, -100], "not the end-of-turn token"),
    ],
)
def test_a_row_that_teaches_nothing_or_no_end_is_named(row: list[int], words: str) -> None:
    with pytest.raises(TrainingError, match=f"eval row 1: .*{words}"):
        check_supervision([[5, EOS], row, [-100]], EOS, "eval")


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


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of the libraries, to be changed."""
    known = dict.fromkeys(("torch", "transformers", "trl", "peft"), "1.0")
    monkeypatch.setattr("tasks.train.metadata.version", known.__getitem__)
    return known


OTHER_VALUES: dict[str, Any] = {
    "method": "full",
    "lora": SECTION.lora.model_copy(update={"r": 999}),
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
    "logging_steps": 999,
    "eval_steps": 999,
}


def test_a_checkpoint_belongs_to_every_parameter(versions: dict[str, str]) -> None:
    assert set(OTHER_VALUES) == set(Train.model_fields), "add the new parameter to OTHER_VALUES"
    sections = [SECTION, *(SECTION.model_copy(update={name: value}) for name, value in OTHER_VALUES.items())]
    assert len({fingerprint(section, "base", "data") for section in sections}) == len(sections) == 15


def test_a_checkpoint_belongs_to_base_data_and_libraries(versions: dict[str, str]) -> None:
    prints = [fingerprint(SECTION, *pair) for pair in (("base", "data"), ("other", "data"), ("base", "other"), ("data", "base"))]
    for name in versions:
        versions[name] = "1.1"
        prints.append(fingerprint(SECTION, "base", "data"))
    assert len(set(prints)) == len(prints) == 8
    versions.update(dict.fromkeys(versions, "1.0"))
    assert fingerprint(SECTION.model_copy(deep=True), "base", "data") == prints[0]


def checkpoint(folder: Path, step: int, complete: bool) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    if complete:
        (path / COMPLETE).touch()
    return path


def test_the_newest_complete_checkpoint_is_taken_by_its_number(tmp_path: Path) -> None:
    for step in (25, 50, 75):
        checkpoint(tmp_path, step, complete=True)
    newest = checkpoint(tmp_path, 100, complete=True)
    checkpoint(tmp_path, 125, complete=False)
    (tmp_path / "runs").mkdir()
    assert last_complete_checkpoint(tmp_path) == newest


def test_without_a_complete_checkpoint_training_starts_anew(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path / "absent") is None
    checkpoint(tmp_path, 25, complete=False)
    assert last_complete_checkpoint(tmp_path) is None


def test_curves_hold_each_logged_loss_at_its_step(tmp_path: Path) -> None:
    history = [{"step": 0, "eval_loss": 3.0}, {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}, {"step": 2, "eval_loss": 2.0}]
    stage._write_curves([*history, {"step": 2, "train_runtime": 9.0}], tmp_path)
    assert read_curve(tmp_path / "train.csv") == [(1, 2.5), (2, 2.25)]
    assert read_curve(tmp_path / "eval.csv") == [(0, 3.0), (2, 2.0)]
