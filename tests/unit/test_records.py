import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from tasks import evaluation_records, records
from tasks.errors import StageInputError
from tasks.evaluation_records import EvalReport, GateDecision, Metric, RuleResult
from tasks.records import Record

FOUND = (vars(records) | vars(evaluation_records)).values()
RECORDS = [kind for kind in FOUND if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record]
# These are part of another record and never alone in a log.
PARTS = {"Environment", "ExpectationResult", "DriftedFeature", "SplitStatistics", "Metric", "RuleResult", "SuiteTask"}


def sample(annotation: Any) -> Any:
    """Some value of a type that a record may have."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation(**{name: sample(field.annotation) for name, field in annotation.model_fields.items()})
    if origin is Literal:
        return arguments[0]
    if origin is UnionType:
        return sample(arguments[0])
    if origin in (list, tuple):
        return origin([sample(arguments[0])])
    if origin is dict:
        return {"some/key": sample(arguments[1])}
    return {str: "0123456789abcdef" * 4, int: 3, float: 0.25, bool: True}[annotation]


def test_there_are_records_to_test() -> None:
    assert len(RECORDS) >= 13
    assert {kind.__name__ for kind in RECORDS} > PARTS


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_comes_back_from_disk_equal(kind: type[Record], tmp_path: Path) -> None:
    record: Record = sample(kind)
    path = tmp_path / "reports" / "stage.json"
    assert record.write(path) is record
    assert kind.read(path) == record
    assert list(json.loads(path.read_text())) == list(kind.model_fields)


@pytest.mark.parametrize("kind", [k for k in RECORDS if k.__name__ not in PARTS], ids=lambda kind: kind.__name__)
def test_a_stage_can_say_in_the_log_what_it_did(kind: type[Record]) -> None:
    record: Record = sample(kind)
    summary = record.summary()
    assert summary
    assert summary.strip() == summary
    # A record may lack everything that is optional, as before the first publication.
    empty = {name: None for name, field in kind.model_fields.items() if type(None) in get_args(field.annotation)}
    assert record.model_copy(update=empty).summary()


def test_a_missing_record_names_the_stage_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    with pytest.raises(StageInputError, match=r"train\.json: missing, so the stage train has not finished; run") as caught:
        records.TrainedModel.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", '{"verdict": "PASS"}', json.dumps({"registry": "r", "version": "v", "digest": "d", "new": 1})],
    ids=["empty", "torn", "null", "list", "another record", "unknown key"],
)
def test_what_is_no_such_record_is_refused_with_the_way_out(tmp_path: Path, content: str) -> None:
    path = tmp_path / "champion.json"
    path.write_text(content)
    with pytest.raises(StageInputError, match=r"champion\.json: not a ChampionRecord .*; run the stage champion again"):
        evaluation_records.ChampionRecord.read(path)


def test_a_record_cannot_change_after_it_was_made() -> None:
    record = sample(evaluation_records.ChampionRecord)
    with pytest.raises(ValidationError, match="frozen"):
        record.digest = "other"


def test_a_number_that_json_does_not_have_never_reaches_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    record = sample(records.TrainedModel).write(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.model_copy(update={"train_loss": float("nan")}).write(path)
    assert records.TrainedModel.read(path) == record


def rule(name: str, verdict: evaluation_records.Verdict) -> RuleResult:
    return RuleResult(
        rule=name, verdict=verdict, unit="points", value=None, lower=None, threshold=None, n=0, reason=f"because of {name}"
    )


def test_a_decision_gives_the_reasons_of_what_did_not_pass_only() -> None:
    rules = [rule("learned", "PASS"), rule("kept", "FAIL"), rule("champion", "INCONCLUSIVE")]
    decision: GateDecision = sample(GateDecision).model_copy(update={"verdict": "FAIL", "rules": rules})
    assert decision.reasons() == ["kept: because of kept", "champion: because of champion"]
    assert decision.summary() == "gate FAIL\n  kept: because of kept\n  champion: because of champion"
    assert decision.model_copy(update={"verdict": "PASS", "rules": rules[:1]}).summary() == "gate PASS"


def test_a_metric_is_found_by_suite_task_and_name_together() -> None:
    metric: Metric = sample(Metric)
    others = [
        metric.model_copy(update={"task": "facts", "metric": "acc", "value": v, "suite": s})
        for v, s in ((0.1, "target"), (0.0, "general"))
    ]
    report: EvalReport = sample(EvalReport).model_copy(update={"metrics": others})
    assert report.value("target", "facts", "acc") == 0.1
    assert report.value("general", "facts", "acc") == 0.0  # a score of nothing is a score
    assert report.value("general", "facts", "f1") is None
