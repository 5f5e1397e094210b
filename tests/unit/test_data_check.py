"""`refit data check`: what a person is told about files, without any stage."""

import json
import shutil
from pathlib import Path

import pytest

from flows import cli
from tasks.paths import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Parameters, policy and stages; no base model."""
    (tmp_path / "data" / "raw").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "data/raw/policy.yaml", "data/raw/orders.jsonl"):
        shutil.copy(ROOT / name, tmp_path / name)
    return Workspace(tmp_path)


def check(workspace: Workspace, *arguments: str) -> int:
    return cli.main(["data", "check", *arguments, "--workspace", str(workspace.root)])


def test_good_files_end_with_0(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.data / "raw" / "orders.jsonl"
    n_rows = len(path.read_text().splitlines())
    before = sorted(workspace.root.rglob("*"))
    assert check(workspace, str(workspace.data / "raw")) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{path}: {n_rows} rows, {n_rows} usable"
    assert n_rows > 10
    assert last.startswith("tokens were not counted")
    assert sorted(workspace.root.rglob("*")) == before


def test_reasons_are_counted_with_their_first_row(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.root / "bank.csv"
    path.write_text('text,category\n"Where is\nmy card?",card\nHow?,help\n')
    cut = workspace.root / "cut.json"
    cut.write_text('[{"Q": "a", "A": "b"}, {"Q"')
    assert check(workspace, str(path), str(cut), "--json") == 2
    bank, broken = json.loads(capsys.readouterr().out)["files"]
    assert (bank["rows"], bank["usable"], bank["reasons"]) == (2, 0, {"missing_key": 2})
    wanted = "the row lacks id, topic, messages; it has 'text', 'category', and validate.columns tells which of them hold what"
    assert bank["first"] == {"missing_key": f"{path}:2: {wanted}"}
    assert bank["error"] is None
    assert (broken["rows"], broken["reasons"]) == (1, {"missing_key": 1})
    assert broken["first"]["missing_key"].endswith(
        "the row lacks topic; guidelines need it, `guidelines: null` is for data without"
    )
    assert broken["error"].startswith(f"{cut}: not JSON after row 1")


def test_a_table_without_its_header_does_not_give_away_its_first_row(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace.root / "bare.csv"
    path.write_text("ann@example.com,Where is it?\nbob@example.com,When?\n")
    assert check(workspace, str(path)) == 2
    out = capsys.readouterr().out
    assert "it has '[EMAIL]', 'Where is it?'" in out
    assert "ann" not in out


def test_general_conversations_need_no_topic_whatever_way_they_are_named(workspace: Workspace) -> None:
    path = workspace.data / "raw" / "replay" / "general.jsonl"
    path.parent.mkdir()
    path.write_text('{"Q": "How are you?", "A": "I am fine."}\n')
    assert check(workspace, str(path)) == 0
    assert check(workspace, str(shutil.copy(path, workspace.root))) == 2


def test_an_empty_file_is_not_good(workspace: Workspace) -> None:
    (workspace.root / "empty.csv").touch()
    assert check(workspace, str(workspace.root / "empty.csv")) == 2


def test_a_path_that_is_not_there_is_named(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(workspace, "absent.jsonl") == 2
    assert "refit: DataError: absent.jsonl: no such file or folder" in capsys.readouterr().err
