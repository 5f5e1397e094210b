"""The stage with Great Expectations and a real, small tokenizer on the default data, whose defects are labelled."""

import json
import re
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks import data_check
from tasks.chat import Encoder, control_tokens, conversation, load_tokenizer, shows_tools
from tasks.errors import BaseModelError, ChatTemplateError, DataError, StageInputError
from tasks.fast_tokenizer import FastTokenizer
from tasks.files import sha256_file, tree_digest
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.records import ValidationReport
from tasks.validate import validate

ROOT = Path(__file__).parents[2]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPPED_LATER = {"duplicate", "near_duplicate"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer of 1500 entries, learned on the default data."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([(ROOT / "data/raw/warranty.jsonl").read_text()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>")
    fast.chat_template = CHATML
    fast.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def make_workspace(root: Path, base: Path) -> Workspace:
    (root / "data/raw").mkdir(parents=True)
    (root / "data/base").symlink_to(base)
    shutil.copy(ROOT / "data/raw/policy.yaml", root / "data/raw")
    return Workspace(root)


def run(workspace: Workspace, params: Params, **changes: Any) -> ValidationReport:
    return validate(params.validation.model_copy(update=changes), params.guidelines, workspace)


def read_quarantine(workspace: Workspace) -> list[dict[str, Any]]:
    """All rows, by place, each with the reason that its file is named for."""
    rows = [
        json.loads(line) | {"reason": path.stem}
        for path in workspace.quarantine.iterdir()
        for line in path.read_text().splitlines()
    ]
    return sorted(rows, key=lambda row: (row["file"], row["line"]))


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory, base: Path, params: Params) -> tuple[Workspace, ValidationReport]:
    workspace = make_workspace(tmp_path_factory.mktemp("default"), base)
    shutil.copytree(ROOT / "data/raw", workspace.data / "raw", dirs_exist_ok=True)
    return workspace, run(workspace, params)


def test_exactly_the_labelled_rows_are_quarantined(default_run: tuple[Workspace, ValidationReport]) -> None:
    workspace, _ = default_run
    labels = json.loads((ROOT / "tests/data/defects.json").read_text())
    wanted = {(file, int(line), reason) for file, rows in labels.items() for line, reason in rows.items()}
    wanted = {label for label in wanted if label[2] not in DROPPED_LATER}
    assert len(wanted) == 51
    assert {(row["file"], row["line"], row["reason"]) for row in read_quarantine(workspace)} == wanted


def test_no_row_is_lost(default_run: tuple[Workspace, ValidationReport]) -> None:
    import pyarrow.parquet as pq

    workspace, report = default_run
    rows = pq.read_table(workspace.accepted).to_pylist()
    raw = {
        f"{path.relative_to(workspace.root)}:{number}": line
        for path in sorted((workspace.data / "raw").rglob("*.jsonl"))
        for number, line in enumerate(path.read_text().split("\n"), start=1)
        if line.strip()
    }
    quarantine = {f"{row['file']}:{row['line']}": row["raw"] for row in read_quarantine(workspace)}
    assert [row["source"] for row in rows] == [source for source in raw if source not in quarantine]
    assert {source: raw[source] for source in quarantine} == quarantine
    assert all(json.loads(raw[row["source"]])["messages"] == conversation(row)[0] for row in rows)
    assert {row["source"].partition(":")[0] for row in rows if row["replay"]} == {"data/raw/replay/general.jsonl"}
    assert sum(row["replay"] for row in rows) == 60
    assert (report.n_raw, report.n_accepted, report.n_quarantined) == (len(raw), len(rows), len(quarantine))
    assert report.reasons == Counter(row["reason"] for row in read_quarantine(workspace))
    assert report.n_raw == report.n_accepted + sum(report.reasons.values())


def test_masked_rows_are_accepted_and_counted_and_the_find_is_nowhere(tmp_path: Path, base: Path, params: Params) -> None:
    import pyarrow.parquet as pq

    workspace = make_workspace(tmp_path, base)
    shutil.copytree(ROOT / "data/raw", workspace.data / "raw", dirs_exist_ok=True)
    digests = tree_digest(workspace.data / "raw")
    report = run(workspace, params, personal_data="mask")
    assert report.masked == {"CARD": 1, "EMAIL": 1, "IBAN": 1, "PHONE": 1}
    assert "personal_data" not in report.reasons
    assert tree_digest(workspace.data / "raw") == digests
    rows = {row["source"]: row["messages"] for row in pq.read_table(workspace.accepted).to_pylist()}
    labels = json.loads((ROOT / "tests/data/defects.json").read_text())["data/raw/inbox.jsonl"]
    texts = [str(rows[f"data/raw/inbox.jsonl:{line}"]) for line, reason in labels.items() if reason == "personal_data"]
    assert [re.findall(r"\[[A-Z]+\]", text) for text in texts] == [["[IBAN]"], ["[EMAIL]", "[PHONE]"], ["[CARD]"]]
    for find in ("DE89370400440532013000", "m.tellbrook", "901820", "4111"):
        assert find not in workspace.record("validate").read_text() + str(rows) + str(read_quarantine(workspace))


def test_the_record_describes_what_lies_on_disk(default_run: tuple[Workspace, ValidationReport]) -> None:
    workspace, report = default_run
    assert ValidationReport.read(workspace.record("validate")) == report
    assert report.accepted_sha256 == sha256_file(workspace.accepted)
    assert report.quarantine_sha256 == tree_digest(workspace.quarantine)
    assert report.raw_files == {
        str(path.relative_to(workspace.root)): sha256_file(path) for path in sorted((workspace.data / "raw").rglob("*.jsonl"))
    }


def test_accepted_rows_have_the_agreed_columns(default_run: tuple[Workspace, ValidationReport]) -> None:
    import pyarrow.parquet as pq

    row = pq.read_table(default_run[0].accepted).to_pylist()[0]
    assert {key: type(value) for key, value in row.items()} == {
        "id": str,
        "source": str,
        "group": str,
        "replay": bool,
        "topic": str,
        "category": str,
        "priority": str,
        "roles": str,
        "last_role": str,
        "n_messages": int,
        "n_user_turns": int,
        "n_tokens": int,
        "reply_words": int,
        "prompt_hash": str,
        "content_hash": str,
        "text": str,
        "must_say": list,
        "messages": list,
        "tools": str,
        "input_ids": list,
        "labels": list,
    }
    assert list(row["messages"][0]) == ["role", "content", "tool_calls", "tool_call_id", "name"]


def test_tokens_are_those_of_the_chat_template(default_run: tuple[Workspace, ValidationReport], base: Path) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    for row in pq.read_table(default_run[0].accepted).to_pylist()[::100]:
        assert row["input_ids"] == tokenizer.apply_chat_template(row["messages"])["input_ids"]
        assert row["n_tokens"] == len(row["input_ids"]) == len(row["labels"])


def test_expectations_are_many_and_all_hold(default_run: tuple[Workspace, ValidationReport]) -> None:
    expectations = default_run[1].expectations
    assert len(expectations) >= 10
    assert len({result.expectation for result in expectations}) >= 7
    assert [result for result in expectations if not result.success] == []
    assert {result.severity for result in expectations} == {"critical", "warning"}


class Loads(HTMLParser):
    """Collects whatever in a page a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag in ("script", "link", "img", "iframe", "object", "base"):
            self.found.append(tag)
        self.found += [f"{key}={value}" for key, value in attrs if key in ("src", "href", "style") or key.startswith("on")]


def loads(page: str) -> Loads:
    parser = Loads()
    parser.feed(page)
    return parser


def test_data_docs_are_whole_offline(default_run: tuple[Workspace, ValidationReport]) -> None:
    page = (default_run[0].data_docs / "index.html").read_text()
    parser = loads(page)
    assert parser.found == []
    assert not re.search(r"https?:|url\(|@import", page)
    assert parser.tags["style"] == 1
    assert parser.tags["tr"] > 26, "a row for each expectation"
    assert "n_tokens" in page
    assert "Succeeded" in page


def test_the_same_data_give_the_same_bytes(
    default_run: tuple[Workspace, ValidationReport], tmp_path: Path, base: Path, params: Params
) -> None:
    first, report = default_run
    second = make_workspace(tmp_path / "again", base)
    shutil.copytree(ROOT / "data/raw", second.data / "raw", dirs_exist_ok=True)
    assert run(second, params) == report
    assert tree_digest(second.data / "validated") == tree_digest(first.data / "validated")


def test_without_fastokens_the_bytes_are_the_same(
    default_run: tuple[Workspace, ValidationReport], tmp_path: Path, base: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FastTokenizer.make(load_tokenizer(base)) is not None
    monkeypatch.setitem(sys.modules, "fastokens", None)
    workspace = make_workspace(tmp_path, base)
    shutil.copytree(ROOT / "data/raw", workspace.data / "raw", dirs_exist_ok=True)
    assert run(workspace, params).accepted_sha256 == default_run[1].accepted_sha256


def good_rows(count: int) -> list[str]:
    return (ROOT / "data/raw/warranty.jsonl").read_text().splitlines()[:count]


@pytest.fixture
def workspace(tmp_path: Path, base: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace", base)


def write_raw(workspace: Workspace, rows: list[str]) -> None:
    (workspace.data / "raw/rows.jsonl").write_text("".join(row + "\n" for row in rows))


def test_failed_critical_expectations_block_and_are_all_named(workspace: Workspace, params: Params) -> None:
    write_raw(workspace, [*good_rows(8), "no json", "[1]"])
    workspace.record("validate").parent.mkdir(parents=True)
    workspace.record("validate").write_text("{}")
    with pytest.raises(DataError) as caught:
        run(workspace, params, max_quarantined=0.1, min_accepted=9)
    message = str(caught.value)
    assert "10 rows, 8 accepted, 2 quarantined" in message
    assert "expect_column_max_to_be_between(quarantined_share): found 0.2, wanted max_value 0.1" in message
    assert "expect_table_row_count_to_be_between(table): found 8, wanted min_value 9" in message
    assert "1 not_json, first data/raw/rows.jsonl:9" in message
    assert "the rows below data/validated/quarantine" in message
    assert [row["line"] for row in read_quarantine(workspace)] == [9, 10]
    page = (workspace.data_docs / "index.html").read_text()
    assert "Failed" in page
    assert loads(page).found == []
    assert not workspace.record("validate").exists()


def test_a_failed_warning_is_reported_and_does_not_block(workspace: Workspace, params: Params) -> None:
    row = good_rows(1)[0]
    write_raw(workspace, [row, row])
    report = run(workspace, params, min_accepted=1)
    failed = {(result.expectation, result.column): result for result in report.expectations if not result.success}
    assert failed.keys() == {
        ("expect_column_values_to_be_unique", "id"),
        ("expect_column_distinct_values_to_contain_set", "topic"),
    }
    assert {result.severity for result in failed.values()} == {"warning"}
    assert failed["expect_column_values_to_be_unique", "id"].unexpected_count == 2
    assert "53 missing" in failed["expect_column_distinct_values_to_contain_set", "topic"].detail


def test_an_expectation_that_raises_has_failed(tmp_path: Path, params: Params) -> None:
    from tasks import expectations
    from tasks.accepted import FEATURES
    from tasks.guidelines import load_policy

    columns = {name: ["a", "b"] for name in FEATURES if name != "n_tokens"}
    policy = load_policy(ROOT / "data/raw/policy.yaml")
    results = expectations.check(columns, params.validation, params.guidelines, policy, tmp_path)
    raised = [result for result in results if result.column == "n_tokens"]
    assert len(raised) == 2
    for result in raised:
        assert not result.success
        assert "not computed: " in result.detail
        assert "n_tokens" in result.detail
        assert "\n" not in result.detail


OWN = """
- {type: expect_column_mean_to_be_between, kwargs: {column: n_tokens, max_value: 1}, severity: SEVERITY}
- {type: expect_column_values_to_be_in_set, kwargs: {column: category, value_set: [warranty]}}
"""


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_expectations_of_the_users_own_are_held_too(workspace: Workspace, params: Params, severity: str) -> None:
    (workspace.data / "raw/own.yaml").write_text(OWN.replace("SEVERITY", severity))
    write_raw(workspace, good_rows(5))
    changes = {"min_accepted": 1, "expectations": "data/raw/own.yaml"}
    if severity == "critical":
        with pytest.raises(DataError, match=r"expect_column_mean_to_be_between\(n_tokens\): found .*, wanted max_value 1"):
            run(workspace, params, **changes)
        return
    results = run(workspace, params, **changes).expectations
    (mean,) = [result for result in results if result.expectation == "expect_column_mean_to_be_between"]
    assert (mean.success, mean.severity) == (False, "warning")
    assert (
        sum(result.expectation == "expect_column_values_to_be_in_set" and result.column == "category" for result in results) == 2
    )
    assert "mean" in (workspace.data_docs / "index.html").read_text()


def test_every_fault_of_the_users_expectations_is_named_before_a_row_is_read(workspace: Workspace, params: Params) -> None:
    (workspace.data / "raw/own.yaml").write_text(
        "- expect_something\n- {type: expect_nothing}\n- {type: expect_column_max_to_be_between, kwargs: {column: tokens}}\n"
        "- {type: expect_column_max_to_be_between, kwargs: {column: n_tokens, most: 3}}\n"
        "- {type: expect_table_row_count_to_equal}\n"
    )
    write_raw(workspace, good_rows(5))
    with pytest.raises(DataError) as caught:
        run(workspace, params, expectations="data/raw/own.yaml")
    first, *faults = str(caught.value).splitlines()
    assert first.endswith("own.yaml: 5 of 5 expectations cannot be used")
    assert [fault.partition(" ")[0] for fault in faults] == ["1.", "2.", "3.", "4.", "5."]
    assert faults[1].endswith("Great Expectations has no such expectation")
    assert "no column tokens; there are id, source" in faults[2]
    assert "extra fields not permitted" in faults[3]
    assert not workspace.quarantine.exists()


@pytest.mark.parametrize(
    ("text", "wanted"), [("{a: 1}", "found dict, wanted a list"), ("- {", "not YAML"), (None, "no such file")]
)
def test_a_file_that_holds_no_expectations_is_named(workspace: Workspace, params: Params, text: str | None, wanted: str) -> None:
    if text:
        (workspace.data / "raw/own.yaml").write_text(text)
    write_raw(workspace, good_rows(5))
    with pytest.raises(DataError, match=rf"own\.yaml: {wanted}"):
        run(workspace, params, expectations="data/raw/own.yaml")


def test_what_stands_before_the_end_of_a_broken_file_counts(workspace: Workspace, params: Params) -> None:
    write_raw(workspace, good_rows(5))
    rows = [json.loads(row) | {"id": f"cut-{number}"} for number, row in enumerate(good_rows(3))]
    (workspace.data / "raw/cut.json").write_text(json.dumps(rows)[:-40])
    with pytest.raises(
        DataError, match=r"data/raw: 1 files could not be read to the end\n1 unreadable, first data/raw/cut.json:3: "
    ):
        run(workspace, params, min_accepted=1)
    report = run(workspace, params, min_accepted=1, max_unreadable_files=1)
    assert (report.n_raw, report.n_accepted, report.reasons) == (8, 7, {"unreadable": 1})
    (row,) = read_quarantine(workspace)
    assert (row["file"], row["line"], row["reason"]) == ("data/raw/cut.json", 3, "unreadable")
    assert "data/raw/cut.json" not in report.raw_files


def test_several_processes_leave_the_same_bytes_as_one(
    default_run: tuple[Workspace, ValidationReport], tmp_path: Path, base: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import validate as stage

    monkeypatch.setattr(stage, "SMALL", 0)
    monkeypatch.setattr(stage, "WORTHWHILE", 0)
    monkeypatch.setattr(stage, "CHUNK", 50)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    workspace = make_workspace(tmp_path / "several", base)
    shutil.copytree(ROOT / "data/raw", workspace.data / "raw", dirs_exist_ok=True)
    assert run(workspace, params) == default_run[1]
    assert tree_digest(workspace.data / "validated") == tree_digest(default_run[0].data / "validated")


def test_without_guidelines_foreign_rows_are_accepted(workspace: Workspace, params: Params) -> None:
    (workspace.data / "raw/pairs.csv").write_text(
        "Q,A,label\n출출해,뭐라도 드세요.,0\n심심해요,게임은 어때요?,0\n", encoding="utf-8"
    )
    (workspace.data / "raw/dolly.json").write_text(
        json.dumps([{"instruction": "Name it", "context": "A fruit", "response": "Apple"}])
    )
    section = params.validation.model_copy(update={"min_accepted": 1})
    report = validate(section, None, workspace)
    assert (report.n_raw, report.n_accepted) == (3, 3)
    assert not any(result.column == "topic" and "set" in result.expectation for result in report.expectations)


def test_markup_in_the_data_stays_text(workspace: Workspace, params: Params) -> None:
    topic = "<script src=https://evil.example/x.js></script>"
    policy = f"topics: {{'{topic}': {{category: warranty, must_say: [x], policy: y}}}}"
    (workspace.data / "raw/policy.yaml").write_text(policy)
    messages = [{"role": "user", "content": "<img src=//evil.example>"}, {"role": "assistant", "content": "[warranty | low]\nx"}]
    write_raw(workspace, [json.dumps({"id": "<b>1</b>", "topic": topic, "messages": messages})])
    run(workspace, params, min_accepted=1)
    page = (workspace.data_docs / "index.html").read_text()
    assert loads(page).found == []
    assert "&lt;script src=https://evil.example/x.js&gt;" in page


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"data/raw: 1 files without a row"),
        (["", "  "], r"data/raw: 1 files without a row"),
        (["x", "y"], "data/raw: none of 2 rows can be used\n2 not_json, first data/raw/rows.jsonl:1"),
    ],
)
def test_nothing_to_use_is_one_data_error(workspace: Workspace, params: Params, rows: list[str], message: str) -> None:
    write_raw(workspace, rows)
    with pytest.raises(DataError, match=message):
        run(workspace, params)
    assert len(read_quarantine(workspace)) == len([row for row in rows if row.strip()])
    assert not workspace.record("validate").exists()


def test_no_raw_file_is_one_data_error(workspace: Workspace, params: Params) -> None:
    with pytest.raises(DataError, match=r"no file of conversations \(.*\), found policy\.yaml"):
        run(workspace, params)


def test_a_missing_tokenizer_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(StageInputError, match="the stage base has not finished"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_and_a_missing_template_are_told_apart(tmp_path: Path, base: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BaseModelError, match="its tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path)
    with pytest.raises(BaseModelError, match="no chat template"):
        load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    tokenizer = load_tokenizer(tmp_path)
    assert control_tokens(tokenizer) == ("<|im_end|>", "<|im_start|>")
    with pytest.raises(ChatTemplateError, match="it refuses the conversation: no system"):
        Encoder(tokenizer)([[{"role": "user", "content": "Hi"}]])


def test_tools_are_shown_by_a_template_that_shows_them_only(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    assert not shows_tools(tokenizer)
    tokenizer.chat_template = (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert shows_tools(tokenizer)
    function = {"name": "find", "arguments": {"order": "A1"}}
    messages = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "in 5 days"},
        {"role": "assistant", "content": "Soon."},
    ]
    tools = [{"type": "function", "function": {"name": "find", "description": "finds", "parameters": {}}}]
    (tokens,) = Encoder(tokenizer)([messages], [tools])  # type: ignore[list-item]
    trained = tokenizer.decode([label for label in tokens["labels"] if label != -100])
    assert trained == f"{json.dumps(function)}<|im_end|>Soon.<|im_end|>"


def test_a_check_of_large_files_tells_what_one_of_small_ones_does(
    default_run: tuple[Workspace, ValidationReport], params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, report = default_run
    found = []
    for least in (1 << 30, 0):
        monkeypatch.setattr(data_check, "WORTHWHILE", least)
        found.append(list(data_check.check_files([workspace.data / "raw"], params, workspace)))
    assert sum(file.usable for file in found[0]) == report.n_accepted
    assert found[0] == found[1]
