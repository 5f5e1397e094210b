"""The parameters of a run as the dashboard has them."""

from pathlib import Path
from typing import get_args

from flows.settings import Stage, as_settings
from tasks.files import parse_yaml
from tasks.overrides import override
from tasks.repro import STAGES

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def test_every_stage_can_be_forced() -> None:
    assert get_args(Stage) == tuple(STAGES)


def test_only_values_that_are_given_are_written_and_no_text_is_taken_for_more(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_bytes(SHIPPED.read_bytes())
    name = "data/raw/policy.yaml"
    values = {"guidelines.policy": name, "train.max_steps": 3, "push.require_approval": True, "train.learning_rate": None}
    override(params, as_settings(values))
    tree = parse_yaml(params.read_text())
    assert (tree["guidelines"]["policy"], tree["train"]["max_steps"], tree["push"]["require_approval"]) == (name, 3, True)
    assert tree["train"]["learning_rate"] == parse_yaml(SHIPPED.read_text())["train"]["learning_rate"]
    assert as_settings({"validate.raw": "a: {b}"}) == ['validate.raw="a: {b}"']
