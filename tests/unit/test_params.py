import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.errors import InputError, ParamsError
from tasks.files import parse_yaml
from tasks.overrides import override
from tasks.params import load_params, parse_params, read_yaml
from tasks.sections import FolderBase, HubBase, WheelBase

SHIPPED = Path(__file__).parents[2] / "params.yaml"
SHIPPED_TREE = read_yaml(SHIPPED)
SHA256 = "0" * 64
COMMIT = "a" * 40


@pytest.fixture
def tree() -> dict[str, Any]:
    """The shipped values, to be spoilt."""
    return copy.deepcopy(SHIPPED_TREE)


@pytest.fixture
def params_yaml(tmp_path: Path) -> Path:
    return Path(shutil.copy(SHIPPED, tmp_path))


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        tree = tree[name]
    tree[leaf] = value


def faults(tree: dict[str, Any]) -> list[str]:
    """The lines of the message, without the first."""
    with pytest.raises(ParamsError) as caught:
        parse_params(tree, "params.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == f"params.yaml: {len(lines)} fault{'s' if len(lines) > 1 else ''}; nothing was run"
    return lines


def test_the_shipped_file_is_whole_and_frozen() -> None:
    params, written = load_params(SHIPPED), read_yaml(SHIPPED)
    general = {"task": "refit_general", "num_fewshot": None, "apply_chat_template": False, "limit": None}
    put(written, "evaluate.general_tasks", [general])
    assert params.model_dump(mode="json", by_alias=True) == written
    with pytest.raises(ValidationError, match="frozen"):
        params.train.seed = 8  # type: ignore[misc]


def test_nothing_that_changes_a_result_has_a_default(tree: dict[str, Any]) -> None:
    """Taking any one value out of the file is a fault that names it."""

    def leaves(node: dict[str, Any], prefix: str = "") -> list[str]:
        return [f"{prefix}{key}" for key in node] + [
            path for key, child in node.items() if isinstance(child, dict) for path in leaves(child, f"{prefix}{key}.")
        ]

    free = ("base.source", "evaluate.scorers.", "gate.learned.guideline_score", "gate.smoke.")
    paths = [path for path in leaves(tree) if not path.startswith(free)]
    assert len(paths) > 40
    for path in paths:
        spoilt = copy.deepcopy(tree)
        *parents, leaf = path.split(".")
        node = spoilt
        for name in parents:
            node = node[name]
        del node[leaf]
        assert faults(spoilt) == [f"{path}: missing"]


def test_every_fault_is_reported_at_once_with_its_path(tree: dict[str, Any]) -> None:
    put(tree, "base", {"source": "hub", "repo_id": "owner/name", "revision": "main", "sha256": SHA256, "chat_template": None})
    put(tree, "prepare.eval_fraction", 0.9)
    put(tree, "train.learning_rat", 0.1)
    put(tree, "train.max_steps", 0)
    put(tree, "gate.learned.guideline_score.min_gain", "much")
    put(tree, "extra", 1)
    del tree["push"]
    found = faults(tree)
    assert [line.partition(": ")[0] for line in found] == [
        "base.revision",
        "prepare",
        "train.max_steps",
        "train.learning_rat",
        "gate.learned.guideline_score.min_gain",
        "push",
        "extra",
    ]
    assert "train.learning_rat: unknown key; remove it or correct its spelling" in found
    assert "extra: unknown key; remove it or correct its spelling" in found
    assert "push: missing" in found


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("validate.max_length", "long", "found 'long'; Input should be a valid integer"),
        ("validate.max_length", 15, "found 15; Input should be greater than or equal to 16"),
        ("validate.max_quarantined", 1.01, "found 1.01; Input should be less than or equal to 1"),
        ("validate", 3, "found 3; Input should be a valid dictionary"),
        ("guidelines", 3, "found 3; Input should be a valid dictionary"),
        ("guidelines.forbidden", "!", "found '!'; Input should be a valid tuple"),
        ("guidelines.reply_pattern", "(", "found '('; not a regular expression"),
        ("guidelines.reply_pattern", "(?P<body>.*)", "lacks the named groups ['category', 'priority']"),
        ("train.method", "adapter", "found 'adapter'; Input should be 'lora', 'full' or 'qlora'"),
        ("train.max_steps", 0, "found 0; must be -1 or at least 1"),
        ("train.max_steps", -2, "found -2; Input should be greater than or equal to -1"),
        ("train.learning_rate", 0, "found 0; Input should be greater than 0"),
        ("train.learning_rate", float("nan"), "found nan; Input should be"),
        ("evaluate.general_tasks", [], "found []; Tuple should have at least 1 item"),
        ("gate.confidence", 1, "found 1; Input should be less than 1"),
        ("push.name", "../elsewhere", "found '../elsewhere'; String should match pattern"),
        ("push.registry", "ftp", "found 'ftp'; Input should be"),
        ("push.repo_id", "model", "found 'model'; String should match pattern"),
        ("push.repo_id", "../a/b", "found '../a/b'; String should match pattern"),
        ("push.license", "Apache 2", "found 'Apache 2'; String should match pattern"),
        ("record.git_branch", "--force", "found '--force'; String should match pattern"),
        ("record.dvc_remote", "a b", "found 'a b'; String should match pattern"),
    ],
)
def test_a_fault_says_where_what_was_found_and_what_was_wanted(tree: dict[str, Any], path: str, value: Any, wanted: str) -> None:
    put(tree, path, value)
    (fault,) = faults(tree)
    assert fault.startswith(f"{path}: found ")
    assert wanted in fault


def test_a_registry_on_the_hub_and_a_remote_need_their_names(tree: dict[str, Any]) -> None:
    put(tree, "push.registry", "hub")
    put(tree, "record.git_remote", "origin")
    push, record = faults(tree)
    assert push.startswith("push: ")
    assert push.endswith("registry: hub needs repo_id, NAMESPACE/NAME of the model repository")
    assert record.startswith("record: ")
    assert record.endswith("git_remote needs git_branch, the branch that is pushed there")


@pytest.mark.parametrize(("evaluation", "test"), [(0.5, 0.5), (1, 0), (0.6, 0.6)])
def test_splits_that_leave_no_training_rows_are_refused(tree: dict[str, Any], evaluation: float, test: float) -> None:
    tree["prepare"].update(eval_fraction=evaluation, test_fraction=test)
    (fault,) = faults(tree)
    assert "nothing is left to train on" in fault


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"source": "wheel", "package": "name==1.0", "file": "a/b.gguf", "sha256": SHA256}, WheelBase),
        ({"source": "hub", "repo_id": "owner/name-1.5", "revision": COMMIT, "sha256": SHA256}, HubBase),
        ({"source": "folder", "path": "models/mine", "sha256": SHA256}, FolderBase),
    ],
)
def test_a_base_model_may_come_from_three_sources(tree: dict[str, Any], section: dict[str, str], kind: type) -> None:
    tree["base"] = {"chat_template": None, **section}
    assert type(parse_params(tree, "params.yaml").base) is kind


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"source": "hub", "repo_id": "owner/name", "revision": "main", "sha256": SHA256}, "base.revision"),
        ({"source": "hub", "repo_id": "owner/name", "revision": COMMIT[:7], "sha256": SHA256}, "base.revision"),
        ({"source": "hub", "repo_id": "name", "revision": COMMIT, "sha256": SHA256}, "base.repo_id"),
        ({"source": "hub", "repo_id": "owner/name", "revision": COMMIT, "sha256": "abc"}, "base.sha256"),
        ({"source": "wheel", "package": "name>=1.0", "file": "b.gguf", "sha256": SHA256}, "base.package"),
        ({"source": "wheel", "package": "--index-url=x", "file": "b.gguf", "sha256": SHA256}, "base.package"),
        ({"source": "folder", "path": "", "sha256": SHA256}, "base.path"),
        ({"source": "folder", "path": "x", "sha256": SHA256, "revision": COMMIT}, "base.revision"),
        ({"source": "git", "path": "x"}, "base"),
        ({"path": "x", "sha256": SHA256}, "base"),
    ],
)
def test_a_base_model_that_could_change_unseen_is_refused(tree: dict[str, Any], section: dict[str, str], path: str) -> None:
    tree["base"] = {"chat_template": None, **section}
    (fault,) = faults(tree)
    assert fault.partition(": ")[0] == path


def test_a_missing_file_and_a_file_that_is_not_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match="no such file; a workspace needs it"):
        load_params(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(ParamsError, match="found list, wanted a mapping of sections"):
        load_params(path)
    path.write_text("")
    with pytest.raises(ParamsError, match="found NoneType, wanted a mapping"):
        load_params(path)


@pytest.mark.parametrize(
    "content", [b"train: [1, 2\n", b"train:\n\tseed: 1\n", b"a: b: c\n", b"\xff\xfe\x00", b"a: !!python/name:os.system\n"]
)
def test_a_syntax_error_is_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=r"params\.yaml: not YAML: ") as caught:
        load_params(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


def comments(path: Path) -> list[str]:
    return [line.partition("#")[2] for line in path.read_text().splitlines() if "#" in line]


def test_an_override_changes_its_values_and_keeps_the_rest_and_the_comments(params_yaml: Path) -> None:
    before, said = read_yaml(params_yaml), comments(params_yaml)
    changes = override(
        params_yaml, ["train.seed=8", "gate.learned.guideline_score.floor=0.75", 'guidelines.forbidden=["?"]', "push.name=other"]
    )
    assert changes == [
        "train.seed: 7 -> 8",
        "gate.learned.guideline_score.floor: 0.5 -> 0.75",
        "guidelines.forbidden: ['!'] -> ['?']",
        f"push.name: {before['push']['name']!r} -> 'other'",
    ]
    put(before, "train.seed", 8)
    put(before, "gate.learned.guideline_score.floor", 0.75)
    put(before, "guidelines.forbidden", ["?"])
    put(before, "push.name", "other")
    assert read_yaml(params_yaml) == before
    assert len(said) >= 5
    assert comments(params_yaml) == said
    assert load_params(params_yaml).train.seed == 8


def test_of_two_settings_of_one_key_the_later_holds(params_yaml: Path) -> None:
    override(params_yaml, ["train.seed=8", "train.seed=9"])
    assert load_params(params_yaml).train.seed == 9


@pytest.mark.parametrize("settings", [[], ["train.seed=7"], ["train.seed=7", "train.method=lora"]])
def test_an_override_that_changes_nothing_does_not_touch_the_file(params_yaml: Path, settings: list[str]) -> None:
    params_yaml.chmod(0o444)
    before = params_yaml.stat()
    assert override(params_yaml, settings) == []
    after = params_yaml.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.seed"], r"--set train\.seed: wanted section\.key=value"),
        (["train.sead=1"], r"params\.yaml has no key train\.sead"),
        (["trian.seed=1"], r"params\.yaml has no key trian\.seed"),
        (["train.seed.deep=1"], r"params\.yaml has no key train\.seed\.deep"),
        (["=1"], r"params\.yaml has no key"),
        (["train.seed=[1"], "is not a YAML value"),
        (
            ["train.seed=8", "train.method=adapter", "gate.kept.margin=2"],
            r"2 faults; nothing was run\ntrain\.method: .*\ngate\.kept\.margin: ",
        ),
        (["train.seed=8", "train.learning_rate=x"], "train.learning_rate: found 'x'"),
        (["prepare.eval_fraction=0.5", "prepare.test_fraction=0.5"], "nothing is left to train on"),
    ],
)
def test_one_bad_setting_refuses_all_and_leaves_every_byte(params_yaml: Path, settings: list[str], message: str) -> None:
    before = params_yaml.read_bytes()
    with pytest.raises(ParamsError, match=message):
        override(params_yaml, settings)
    assert params_yaml.read_bytes() == before
    assert [path.name for path in params_yaml.parent.iterdir()] == ["params.yaml"]


def test_settings_that_are_only_right_together_are_taken_together(params_yaml: Path) -> None:
    """Sum of fractions: 0.08 + 0.95 would be refused alone."""
    override(params_yaml, ["prepare.test_fraction=0.95", "prepare.eval_fraction=0.01"])
    assert load_params(params_yaml).prepare.test_fraction == 0.95


def test_a_number_in_scientific_notation_is_written_as_a_number(params_yaml: Path) -> None:
    override(params_yaml, ["train.learning_rate=2e-3"])
    assert override(params_yaml, ["train.learning_rate=2e-3"]) == []
    assert parse_yaml(params_yaml.read_text())["train"]["learning_rate"] == 0.002


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("run_name", '"on"', "on"),
        ("run_name", '"12:30:00"', "12:30:00"),
        ("run_name", '"7"', "7"),
        ("run_name", "ä: b", {"ä": "b"}),
        ("lr_scheduler_kwargs", '{"a": "no"}', {"a": "no"}),
        ("adam_epsilon", "1e-9", 1e-9),
    ],
)
def test_what_is_written_is_what_will_be_read(params_yaml: Path, key: str, text: str, value: Any) -> None:
    """YAML 1.1, which reads the file, sees more in a word without quotes than YAML 1.2."""
    override(params_yaml, [f"train.sft.{key}={text}"])
    assert load_params(params_yaml).train.sft == {key: value}


def test_the_language_of_norway_stays_a_language(params_yaml: Path) -> None:
    override(params_yaml, ['validate.language="no"'])
    assert load_params(params_yaml).validation.language == "no"


EXACT = {"exact_match": {"type": "exact_match"}}
LOSS = {"reply_loss": {"min_gain": 0.5, "floor": 3.0}}
JUDGE = {"type": "judge", "base_url": "http://127.0.0.1:1/v1", "model": "m", "criteria": "polite"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"guidelines": None}, "evaluate.scorers.guideline_score: of the type guidelines, and guidelines is null"),
        ({"evaluate.scorers": EXACT}, "gate.learned: found guideline_score, wanted any of exact_match, reply_loss"),
        ({"evaluate.scorers": EXACT, "gate.learned": LOSS}, "gate.smoke: found structure, wanted any of exact_match, stops,"),
        ({"gate.learned.stops": {"min_gain": 0.1, "floor": 0.1}}, "gate.learned: found stops, wanted any of guideline_score,"),
        ({"gate.smoke": {"stops": 1}}, "gate: found"),
        ({"gate.learned.guideline_score.floor": 2}, "gate: found"),
        ({"evaluate.target_tasks": ["quiz"]}, "gate.learned: lacks quiz of evaluate.target_tasks: what is scored is judged"),
        ({"evaluate.target_tasks": ["refit_general"]}, "evaluate: found"),
        ({"evaluate.scorers.category": {"type": "chrf"}}, "evaluate: found"),
        (
            {"evaluate.scorers.judged": JUDGE, "gate.learned": {"judged": {"min_gain": 0.1, "floor": 0.5}}},
            "gate.learned: only metrics of a judge; it never decides alone",
        ),
        ({"guidelines.policy": "policy.yaml"}, "guidelines.policy must lie below validate.raw (data/raw)"),
        ({"guidelines.policy": "data/raw/../policy.yaml"}, "guidelines.policy must lie below validate.raw (data/raw)"),
        ({"validate.expectations": "mine.yaml"}, "validate.expectations must lie below validate.raw (data/raw)"),
        ({"validate.raw": "elsewhere"}, "guidelines.policy must lie below validate.raw (elsewhere)"),
    ],
)
def test_sections_must_fit_each_other(tree: dict[str, Any], changes: dict[str, Any], wanted: str) -> None:
    for path, value in changes.items():
        put(tree, path, value)
    (fault,) = faults(tree)
    assert fault.startswith(wanted)


def test_without_guidelines_a_gate_that_needs_none_will_do(tree: dict[str, Any]) -> None:
    smoke = {"stops": 0.9, "nonempty": 1, "no_repetition": 0}
    for path, value in {"guidelines": None, "evaluate.scorers": EXACT, "gate.learned": LOSS, "gate.smoke": smoke}.items():
        put(tree, path, value)
    assert parse_params(tree, "params.yaml").guidelines is None


def test_a_task_may_be_a_name_or_have_options(tree: dict[str, Any]) -> None:
    put(tree, "evaluate.general_tasks", ["refit_general", {"task": "arc_easy", "num_fewshot": 5, "limit": 200}])
    plain, named = parse_params(tree, "params.yaml").evaluate.general_tasks
    assert (plain.task, plain.num_fewshot, plain.apply_chat_template, plain.limit) == ("refit_general", None, False, None)
    assert (named.task, named.num_fewshot, named.apply_chat_template, named.limit) == ("arc_easy", 5, False, 200)


def test_a_judge_may_decide_beside_another_metric(tree: dict[str, Any]) -> None:
    put(tree, "evaluate.scorers.judged", JUDGE)
    put(tree, "gate.learned.judged", {"min_gain": 0.1, "floor": 0.5})
    assert parse_params(tree, "params.yaml").evaluate.judges == {"judged"}


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("general_tasks", [{"task": "x", "limit": 0}], "general_tasks.0.limit: found 0; Input should be greater than"),
        (
            "general_tasks",
            [{"task": "x", "fewshot": 5}],
            "general_tasks.0.fewshot: unknown key; remove it or correct its spelling",
        ),
        ("scorers", {"No": {"type": "chrf"}}, "scorers.No: found 'No'; String should match pattern"),
        ("scorers.x", {"type": "bleu"}, "scorers.x: found {'type': 'bleu'}; Input tag 'bleu' found using 'type' does not match"),
        ("scorers.x", {"type": "regex", "pattern": "("}, "scorers.x.pattern: found '('; not a regular expression"),
        ("scorers.x", {"type": "omits", "texts": []}, "scorers.x.texts: found []; Tuple should have at least 1 item"),
        ("scorers.x", {"type": "python", "entry_point": "score"}, "scorers.x.entry_point: found 'score'; String should match"),
        ("scorers.x", {"type": "json_schema"}, "scorers.x.file: missing"),
    ],
)
def test_a_fault_in_a_scorer_or_task_is_named(tree: dict[str, Any], path: str, value: Any, wanted: str) -> None:
    put(tree, f"evaluate.{path}", value)
    (fault,) = faults(tree)
    assert fault.startswith(f"evaluate.{wanted}")


def test_rows_that_are_published_may_hold_no_secret(tree: dict[str, Any]) -> None:
    tree["record"]["dataset_repo_id"] = "owner/conversations"
    for handling in ("quarantine", "mask"):
        tree["validate"]["secrets"] = handling
        parse_params(tree, "params.yaml")
    tree["validate"]["secrets"] = "allow"
    assert faults(tree) == ["record.dataset_repo_id: publishes the rows, so validate.secrets must be quarantine or mask"]
