"""Eval suites: bad ones are named item by item before any model is loaded, good ones are scored as lm-eval's own options say."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tasks.errors import DataError, ParamsError
from tasks.eval_tasks import load_tasks, protected_texts
from tasks.evaluation_records import EvalReport, SuitesReport
from tasks.paths import Workspace
from tasks.suites import suites
from tests.conftest import REPO, edit_params
from tests.evaluating import section
from tests.integration.running import Step, execute, refused, stage

CHOICE = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
GENERATE = CHOICE | {
    "output_type": "generate_until",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
}


def item(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"i{number}", "prompt": f"{number} plus 1 is", "choices": ["a", "b"], "answer": number % 2} | changes


def write_task(folder: Path, name: str, rows: Sequence[Any] | None, **config: Any) -> None:
    """A task file, and its rows where there are any; a row that is text stands in the file as it is."""
    path = folder / f"{name}.jsonl"
    if rows is not None:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    task = CHOICE | {"task": name, "dataset_kwargs": {"data_files": {"test": str(path)}}} | config
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({key: value for key, value in task.items() if value is not None}))


NESTED = [item(1, prompt={"a": {"b": "text"}}), item(2, prompt={"a": None})]
FILTERS = [{"name": "number", "filter": [{"function": "regex", "regex_pattern": "(\\d"}, {"function": "take_first"}]}]
BAD: dict[str, tuple[Sequence[Any] | None, dict[str, Any], str]] = {
    "no_file": (None, {}, "no_file: lm-eval cannot load it, or its first item: FileNotFoundError: "),
    "nothing": ([], {}, "nothing: "),
    "no_json": (["{"], {}, "no_json: lm-eval cannot load it, or its first item: "),
    "twice": ([item(1), item(2), item(1)], {}, "twice: 1 ids stand more than once, such as i1"),
    "outside": ([item(1), item(2, answer=2)], {}, "outside item i2: the answer 2 is outside its 2 choices"),
    "negative": ([item(1, answer=-1)], {}, "negative item i1: the answer -1 is outside its 2 choices"),
    "no_choice": ([item(1, answer="c")], {}, "no_choice item i1: the answer c is outside its 2 choices"),
    "same": ([item(1, choices=["a", "a"])], {}, "same item i1: wanted two or more different choices, found ['a', 'a']"),
    "template": (
        [item(1)],
        {"doc_to_text": "{{prompt"},
        "template: lm-eval cannot load it, or its first item: TemplateSyntaxError",
    ),
    "no_key": (NESTED, {"doc_to_text": "{{prompt.a.b}}"}, "no_key item i2: UndefinedError"),
    "a_regex": ([item(1)], GENERATE | {"filter_list": FILTERS}, "a_regex: its filter number is faulty: "),
    "whole": ([item(1)], {"metric_list": [{"metric": "mcc"}]}, "whole: lm-eval computes mcc of the suite as a whole"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_suite_is_named_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    rows, config, wanted = BAD[name]
    write_task(tmp_path, name, rows, **config)
    with pytest.raises(DataError) as caught:
        load_tasks(section([name]), tmp_path)
    first, fault = str(caught.value).splitlines()
    assert first == "1 faults in the eval suites; nothing was scored"
    assert fault.startswith(wanted)


def test_every_fault_of_every_suite_is_told_at_once(tmp_path: Path) -> None:
    write_task(tmp_path, "good", [item(1)])
    write_task(tmp_path, "outside", [item(0), *(item(number, answer=5) for number in range(1, 31))])
    (tmp_path / "both.yaml").write_text("group: both\ntask: [good, outside]\n")
    with pytest.raises(DataError) as caught:
        load_tasks(section(["both"], ["good"]), tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "31 faults in the eval suites; nothing was scored"
    assert lines[1] == "good: named 2 times by target_tasks and general_tasks"
    assert lines[2].startswith("outside item i1: the answer 5 is outside")
    assert lines[-1] == "and 11 more"


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    write_task(tmp_path, "good", [item(1)])
    (tmp_path / "task.yaml").write_text("task: [")
    with pytest.raises(DataError, match=r"task\.yaml: not YAML: .* line 1"):
        load_tasks(section(["good"]), tmp_path)


def test_the_record_tells_items_and_metrics_and_the_texts_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    write_task(folder, "good", [item(number) for number in range(5)])
    limited = {"task": "good", "limit": 3, "num_fewshot": 1}
    report = suites(section([limited]), folder, tmp_path / "suites" / "items.parquet", tmp_path / "suites.json")
    (task,) = report.tasks
    assert (task.suite, task.entry, task.metric, task.limit, task.n_items) == ("general", "good", "acc", 3, 3)
    assert "LIMITED: good to 3 items" in report.summary()
    texts = pd.read_parquet(tmp_path / "suites" / "items.parquet")
    assert texts["item"].tolist() == [f"good i{number}" for number in range(5)], "also those that are not scored"
    assert texts["text"][3] == "3 plus 1 is b"


def test_the_text_of_an_item_has_its_right_choice_wherever_the_task_puts_that(tmp_path: Path) -> None:
    """Before the rest of the sentence, as in Winogrande; as one of several right answers."""
    sentence = {"id": "w", "choices": ["The pot holds less than the can", "The pot holds less than the lid"], "answer": 1}
    before = {"doc_to_text": "{{answer}}", "doc_to_target": "because it is wide", "target_delimiter": " "}
    write_task(tmp_path, "before", [sentence], **before)
    write_task(
        tmp_path, "several", [item(1, answers=["b", "bee"])], **GENERATE | {"doc_to_target": "{{answers}}", "doc_to_choice": None}
    )
    texts = dict(protected_texts(load_tasks(section(["before", "several"]), tmp_path)))
    assert texts == {"before w": "the pot holds less than the lid because it is wide", "several i1": "1 plus 1 is b"}


def test_a_scorer_without_its_file_is_refused_before_any_suite(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"evaluate\.scorers\.form: "):
        suites(section(["none"], form={"type": "json_schema", "file": "form.json"}), tmp_path, tmp_path / "x", tmp_path / "y")


def test_items_that_cannot_be_fetched_now_may_be_later(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(REPO / name, tmp_path / name)
    (workspace.data / "eval").mkdir(parents=True)
    write_task(workspace.data / "eval", "far", None, dataset_path="owner/far", dataset_kwargs=None)
    edit_params(workspace, {"evaluate.general_tasks": ["far"]})
    command = [sys.executable, "-m", "tasks.suites", "--workspace", str(tmp_path)]
    done = execute(Workspace(REPO), command, env={"HF_HUB_OFFLINE": "1"})
    assert "far: its items cannot be fetched: " in refused(done, 1, "NetworkError")


@pytest.fixture(scope="module")
def scored(first: Step, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Base, scored by a scorer of the workspace's own, with a target task, few-shot examples, the chat template and a limit."""
    workspace = Workspace(Path(shutil.copytree(first.left.root, tmp_path_factory.mktemp("suites") / "workspace")))
    folder = workspace.data / "eval"
    numbers = [{"name": "number", "filter": [{"function": "regex", "regex_pattern": "(\\d+)"}, {"function": "take_first"}]}]
    as_it_is = {"name": "as_it_is", "filter": [{"function": "take_first"}]}
    write_task(folder, "maths", [item(number) for number in range(6)], **GENERATE, filter_list=[*numbers, as_it_is])
    write_task(folder, "quiz", [item(number, cluster=f"c{number // 2}") for number in range(6)])
    (folder / "mine.py").write_text("def words(reply, doc):\n    return min(1.0, len(reply.split()) / 100)\n")
    settings = {
        "evaluate.general_tasks": ["refit_facts", {"task": "maths", "num_fewshot": 2, "apply_chat_template": True, "limit": 4}],
        "evaluate.target_tasks": ["quiz"],
        "evaluate.scorers": {
            "guideline_score": {"type": "guidelines"},
            "words": {"type": "python", "entry_point": "mine:words"},
            "chrf": {"type": "chrf"},
            "polite": {"type": "omits", "texts": ["stupid"]},
        },
        "gate.learned": {"reply_loss": {"min_gain": 0.1, "floor": 9}, "quiz": {"min_gain": 0.0, "floor": 0.0}},
    }
    edit_params(workspace, settings)
    for command in (["suites"], ["evaluate", "base"]):
        done = execute(workspace, stage(*command))
        assert done.returncode == 0, done.stderr
    return workspace


def test_options_of_a_task_reach_lm_eval(scored: Workspace) -> None:
    report = EvalReport.read(scored.record("evaluate@base"))
    items = pd.read_parquet(scored.scores("base") / "items.parquet")
    found = {task.task: task for task in report.tasks}
    assert (found["maths"].metric, found["maths"].n_items, found["maths"].limit) == ("exact_match,number", 4, 4)
    maths = items[items["task"] == "maths"]
    assert set(maths["metric"]) == {"exact_match,number", "exact_match,as_it_is"}
    assert maths["item"].tolist() == ["i0", "i0", "i1", "i1", "i2", "i2", "i3", "i3"]
    assert "LIMITED: maths to 4 items" in report.summary()
    assert SuitesReport.read(scored.record("suites")).tasks == report.tasks


def test_every_item_has_a_hash_and_a_cluster(scored: Workspace) -> None:
    items = pd.read_parquet(scored.scores("base") / "items.parquet")
    assert items["hash"].str.fullmatch("[0-9a-f]{16}").all()
    assert (items["cluster"] != "").all()
    quiz = items[items["task"] == "quiz"]
    assert (set(quiz["suite"]), quiz["cluster"].tolist()) == ({"target"}, ["c0", "c0", "c1", "c1", "c2", "c2"])
    per_item = items.groupby(["task", "item"])["hash"].nunique()
    assert (per_item == 1).all()


def test_every_scorer_scores_every_reply_and_slices_are_known(scored: Workspace) -> None:
    items = pd.read_parquet(scored.scores("base") / "items.parquet")
    replies = items[items["task"] == "target"]
    wanted = {"guideline_score", "structure", "category", "priority", "policy_facts", "words", "chrf", "polite"}
    assert set(replies["metric"]) == wanted | {"stops", "nonempty", "no_repetition"}
    assert replies.groupby("item")["metric"].count().nunique() == 1
    assert replies["value"].between(0, 1).all()
    answers = [json.loads(line) for line in (scored.scores("base") / "answers.jsonl").read_text().splitlines()]
    for answer in answers:
        assert answer["words"] == pytest.approx(min(1.0, len(answer["answer"].split()) / 100))
    assert set(replies["length"]) == {"short", "medium", "long"}
    assert set(replies["language"]) <= {"en", "unknown"}
    assert (replies["topic"] != "").all()


def test_a_model_without_a_chat_template_is_refused_by_name(scored: Workspace) -> None:
    template = scored.base / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    try:
        done = execute(scored, stage("evaluate", "base"))
    finally:
        template.write_text(text)
    assert "has no chat template" in refused(done, 1, "BaseModelError")
