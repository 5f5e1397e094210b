"""Raw data that DVC keeps follow their source, or the version that git brought; what only lies there is never replaced."""

import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import main
from dvc.dependency.base import Dependency

from flows import stages
from tasks.data_source import DataSource
from tasks.data_watch import watch_of
from tasks.errors import DataError, InputError, TransientError
from tasks.files import write_json
from tasks.paths import Workspace
from tests.conftest import REPO, MakeWorkspace, edit_params

ROW = '{"messages": []}\n'


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    (workspace.data).mkdir(parents=True)
    dvc(workspace, "init", "--no-scm", "--quiet")
    return workspace


def dvc(workspace: Workspace, *words: str) -> None:
    with chdir(workspace.root):
        assert main(list(words)) == 0


def rows_of(workspace: Workspace) -> dict[str, int]:
    return {path.name: path.read_text().count("\n") for path in (workspace.data / "raw").iterdir()}


@pytest.fixture
def imported(place: Workspace, tmp_path: Path) -> Path:
    """The source of an imported folder."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.jsonl").write_text(ROW)
    dvc(place, "import-url", "--quiet", str(source), "data/raw")
    return source


def test_an_import_follows_its_source_and_the_watch_tells_it(place: Workspace, imported: Path) -> None:
    source, watch = DataSource(place, place.data / "raw"), watch_of(place, "data/raw", 0, 0)
    watch.start(known=True)
    assert source.kept_by_dvc
    assert not source.refresh()
    assert watch.look() is None
    (imported / "b.jsonl").write_text(ROW * 3)
    assert source.refresh()
    assert rows_of(place) == {"a.jsonl": 1, "b.jsonl": 3}
    change = watch.look()
    assert change is not None
    assert (change.rows, change.rows_before) == (4, 1)
    assert not source.refresh()


def test_a_source_that_is_gone_takes_nothing_with_it(place: Workspace, imported: Path) -> None:
    shutil.rmtree(imported)
    with pytest.raises(DataError, match=r"data/raw: its source .* is gone; what lies there stays"):
        DataSource(place, place.data / "raw").refresh()
    assert rows_of(place) == {"a.jsonl": 1}


def test_a_source_that_breaks_off_takes_nothing_with_it(
    place: Workspace, imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    (imported / "b.jsonl").write_text(ROW)
    monkeypatch.setattr(Dependency, "download", break_off)
    with pytest.raises(TransientError, match="data/raw: cannot be brought up to date now: OSError: no route to host"):
        DataSource(place, place.data / "raw").refresh()
    assert rows_of(place) == {"a.jsonl": 1}


@pytest.fixture
def tracked(place: Workspace) -> list[bytes]:
    """Two versions of a folder that DVC tracks, as their .dvc files; the second one lies there, and was looked at."""
    raw, found = place.data / "raw", []
    raw.mkdir()
    for rows in (1, 2):
        (raw / "a.jsonl").write_text(ROW * rows)
        dvc(place, "add", "--quiet", "data/raw")
        found.append((place.data / "raw.dvc").read_bytes())
    assert not DataSource(place, raw).refresh()
    return found


def test_a_version_that_git_brought_is_checked_out_once(place: Workspace, tracked: list[bytes]) -> None:
    raw = place.data / "raw"
    (place.data / "raw.dvc").write_bytes(tracked[0])
    assert DataSource(place, raw).refresh()
    assert rows_of(place) == {"a.jsonl": 1}
    (raw / "b.jsonl").write_text(ROW)
    (raw / "a.jsonl").unlink()
    assert not DataSource(place, raw).refresh()
    assert rows_of(place) == {"b.jsonl": 1}, "what a person did since is no business of a version that was there before"


def test_a_folder_that_is_missing_is_brought(place: Workspace, tracked: list[bytes]) -> None:
    shutil.rmtree(place.data / "raw")
    assert DataSource(place, place.data / "raw").refresh()
    assert rows_of(place) == {"a.jsonl": 2}


def test_rows_that_no_version_has_are_not_replaced(place: Workspace, tracked: list[bytes]) -> None:
    (place.data / "raw" / "a.jsonl").write_text(ROW * 7)
    (place.data / "raw.dvc").write_bytes(tracked[0])
    with pytest.raises(InputError, match=r"`dvc add data/raw` keeps what .* `dvc pull --force data/raw.dvc` replaces it"):
        DataSource(place, place.data / "raw").refresh()
    assert rows_of(place) == {"a.jsonl": 7}


def test_a_version_that_neither_cache_nor_remote_has_is_told(place: Workspace, tracked: list[bytes]) -> None:
    (place.data / "raw.dvc").write_bytes(tracked[0])
    shutil.rmtree(place.root / ".dvc" / "cache")
    with pytest.raises(InputError, match="DVC cannot bring data/raw up to date: "):
        DataSource(place, place.data / "raw").refresh()
    assert rows_of(place) == {"a.jsonl": 2}


def test_data_that_change_while_they_are_read_are_read_again(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC notes which data a stage was given after it ended: without its record the stage counts as not done."""
    raw = place.data / "raw"
    raw.mkdir()
    shutil.copy(REPO / "params.yaml", place.params)
    changes = iter([True, False])

    def run(workspace: Workspace, stage: str, forced: bool) -> str:
        write_json(workspace.record(stage), {})
        if next(changes):
            (raw / "late.jsonl").write_text(ROW)
        return "read"

    monkeypatch.setattr(stages, "_run_stage", run)
    with pytest.raises(TransientError, match="data/raw: changed while it was read; the next try reads it anew"):
        stages.validate.fn(place)
    assert not place.record("validate").exists()
    stages.validate.fn(place)
    assert place.record("validate").exists()


def test_another_folder_is_watched_from_then_on(make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may name one in the dashboard while the service watches."""
    import flows.watch

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(flows.watch, "emit_event", lambda **event: told.append(event))
    monkeypatch.setattr(flows.watch, "_arrived", lambda event_id: True)
    place = make_workspace()
    found = flows.watch.Watch(place, 0, 0)
    assert found.look() is not None
    other = Path(shutil.copytree(place.data / "raw", place.data / "other"))
    (other / "more.jsonl").write_text(ROW * 3)
    edit_params(place, {"validate.raw": "data/other", "guidelines.policy": "data/other/policy.yaml"})
    assert found.look() is not None
    assert found.folder == other
    assert told[1]["payload"]["rows"] == told[1]["payload"]["rows_before"] + 3 == told[0]["payload"]["rows"] + 3
    assert found.look() is None
