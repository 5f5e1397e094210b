"""`refit data add` and `refit data diff` without DVC and git: what is taken, what is refused, and what is written."""

import json
import shutil
from pathlib import Path

import pytest

from flows import cli
from tasks import data_versions
from tasks.errors import TransientError
from tasks.paths import Workspace

ROOT = Path(__file__).parents[2]
GOOD = (ROOT / "data/raw/orders.jsonl").read_text().splitlines(keepends=True)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Parameters, policy, stages and one raw file; as current folder one beside it, with files to bring in."""
    root = tmp_path / "workspace"
    (root / "data" / "raw").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "data/raw/policy.yaml", "data/raw/orders.jsonl"):
        shutil.copy(ROOT / name, root / name)
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return Workspace(root)


def data(workspace: Workspace, *arguments: str) -> int:
    return cli.main(["data", *arguments, "--workspace", str(workspace.root)])


def names(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in (workspace.data / "raw").iterdir())


def test_files_are_copied_and_their_rows_told(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.jsonl").write_text("".join([*GOOD[:2], "not json\n"]))
    assert data(workspace, "add", "more.jsonl", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["added"], told["known"]) == (["data/raw/more.jsonl"], [])
    assert told["then"] == (
        "neither git nor DVC tracks data/raw, so older versions are not kept; `dvc add data/raw` keeps them from now on"
    )
    (check,) = told["files"]
    assert (check["rows"], check["usable"], check["reasons"]) == (3, 2, {"not_json": 1})
    assert (workspace.data / "raw" / "more.jsonl").read_bytes() == Path("more.jsonl").read_bytes()
    assert names(workspace) == ["more.jsonl", "orders.jsonl", "policy.yaml"]


def test_the_same_file_again_changes_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    there = workspace.data / "raw" / "orders.jsonl"
    shutil.copy(there, "orders.jsonl")
    before = there.stat()
    assert data(workspace, "add", "orders.jsonl", str(there)) == 2, "two files of one name"
    capsys.readouterr()
    for path in ("orders.jsonl", str(there)):
        assert data(workspace, "add", path) == 0
        assert "data/raw/orders.jsonl: was there already\n" in capsys.readouterr().out
    assert there.stat() == before


def test_other_rows_under_a_known_name_are_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.jsonl").write_text("".join(GOOD))
    Path("orders.jsonl").write_text("".join(GOOD[:3]))
    target = workspace.data / "raw" / "orders.jsonl"
    assert data(workspace, "add", "a.jsonl", "orders.jsonl") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"refit: DataError: orders.jsonl: {target} has this name and may have other rows; rename the file, or ")
    assert f"`refit data diff {target} orders.jsonl`" in err
    assert names(workspace) == ["orders.jsonl", "policy.yaml"]
    assert target.read_text() == "".join(GOOD)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cut.json", '[{"Q": "a", "A": "b"}, {"Q"', "cut.json: not JSON after row 1"),
        ("notes.txt", "x", "notes.txt: would not be read; wanted a name like *.jsonl, "),
        ("absent.jsonl", None, "absent.jsonl: no such file; nothing was added"),
        (".", None, ".: a folder, wanted files; nothing was added"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_all_others(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], name: str, text: str | None, message: str
) -> None:
    Path("good.jsonl").write_text("".join(GOOD))
    if text is not None:
        Path(name).write_text(text)
    assert data(workspace, "add", "good.jsonl", name, "--json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"refit: DataError: {message}" in err
    assert "nothing was added" in err
    assert names(workspace) == ["orders.jsonl", "policy.yaml"]


def test_an_imported_folder_is_not_added_to(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.data / "raw.dvc").write_text("frozen: true\ndeps:\n- path: ssh://host/rows\nouts:\n- path: raw\n")
    Path("good.jsonl").write_text("".join(GOOD))
    assert data(workspace, "add", "good.jsonl") == 2
    assert "data/raw: a copy of ssh://host/rows, which the next update would replace; put the" in capsys.readouterr().err
    assert "good.jsonl" not in names(workspace)


def test_a_copy_that_fails_leaves_no_part(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("good.jsonl").write_text("".join(GOOD))

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", no_room)
    with pytest.raises(OSError, match="No space left"):
        data(workspace, "add", "good.jsonl")
    assert names(workspace) == ["orders.jsonl", "policy.yaml"]


def test_a_folder_that_dvc_tracks_is_recorded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.data / "raw.dvc").write_text("outs:\n- path: raw\n")
    Path("good.jsonl").write_text("".join(GOOD))
    recorded: list[Path] = []
    monkeypatch.setattr(data_versions, "_dvc_add", lambda workspace, folder: recorded.append(folder))
    assert data(workspace, "add", "good.jsonl") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("DVC has the version, data/raw.dvc names it; commit that file")
    assert recorded == [workspace.data / "raw"]

    def busy(workspace: Workspace, folder: Path) -> None:
        raise TransientError("busy")

    monkeypatch.setattr(data_versions, "_dvc_add", busy)
    assert data(workspace, "add", "good.jsonl") == 1


def test_two_files_and_two_folders_are_compared(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    raw = workspace.data / "raw"
    Path("next.jsonl").write_text("".join(GOOD[1:]))
    assert data(workspace, "diff", str(raw / "orders.jsonl"), "next.jsonl") == 0
    n = len(GOOD)
    assert capsys.readouterr().out.splitlines() == [
        f"all: {n} -> {n - 1} rows: 1 removed, {n - 1} unchanged",
        "removed:",
        "  data/raw/orders.jsonl:1",
    ]
    assert data(workspace, "diff", ".", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"].keys() == {"next.jsonl", "orders.jsonl"}
    assert (told["total"]["moved"], told["total"]["added"]) == (n - 1, 1)
    assert told["examples"]["added"] == ["data/raw/orders.jsonl:1"]


def test_rows_that_cannot_be_read_to_their_end_are_not_compared(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cut.json").write_text('[{"Q": "a", "A": "b"}, {"Q"')
    assert data(workspace, "diff", "cut.json") == 2
    assert "refit: DataError: cut.json: not JSON after row 1" in capsys.readouterr().err
