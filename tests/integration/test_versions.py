"""A published version in git and in a DVC remote, and laid out again from there."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.files import sha256_file, tree_digest
from tasks.paths import Workspace
from tests.conftest import REPO, edit_params, git
from tests.integration.running import REFIT, Done, Step, execute, refused, stage

TAG = "quillmere-support-v2"


class Place(NamedTuple):
    """A workspace in git, with a remote of git and one of DVC; `answer` is what the run that published v2 said."""

    workspace: Workspace
    origin: Path
    store: Path
    answer: dict[str, Any]
    before: dict[str, str]

    def git(self, *words: str, at: Path | None = None) -> str:
        return git(at or self.workspace.root, *words)


def refit(workspace: Workspace, *words: str, **settings: Any) -> Done:
    return execute(workspace, [*REFIT, *words, "--json"], **settings)


def state_of(workspace: Workspace) -> dict[str, str]:
    """What a person sees of the working tree."""
    return {
        "head": git(workspace.root, "rev-parse", "HEAD"),
        "branch": git(workspace.root, "rev-parse", "--abbrev-ref", "HEAD"),
        "staged": git(workspace.root, "diff", "--cached", "--name-only"),
    }


@pytest.fixture(scope="module")
def place(first: Step, server: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("written down")
    workspace = Workspace(Path(shutil.copytree(first.left.root, folder / "workspace", symlinks=True)))
    shutil.copyfile(REPO / ".dvc" / "config", workspace.root / ".dvc" / "config")  # without no_scm
    shutil.copyfile(REPO / ".gitignore", workspace.root / ".gitignore")
    shutil.copyfile(REPO / "data" / ".gitignore", workspace.data / ".gitignore")
    git(folder, "init", "--quiet", "--bare", "origin.git")
    git(workspace.root, "init", "--quiet", "--initial-branch=main")
    git(workspace.root, "remote", "add", "origin", str(folder / "origin.git"))
    with (workspace.root / ".dvc" / "config").open("a") as config:
        config.write(f"['remote \"store\"']\n    url = {folder / 'store'}\n")
    edit_params(
        workspace,
        {
            "record": {"git_branch": "models", "git_remote": "origin", "dvc_remote": "store", "dataset_repo_id": None},
            "train.learning_rate": 0.012,
        },
    )
    git(workspace.root, "add", "--all")
    git(workspace.root, "commit", "--quiet", "--message", "all of it")
    (workspace.root / "notes.txt").write_text("mine, not yet committed\n")
    before = state_of(workspace)
    done = refit(workspace, "run", env={"PREFECT_API_URL": server})
    assert done.returncode == 0, done.stdout + done.stderr
    return Place(workspace, folder / "origin.git", folder / "store", json.loads(done.stdout), before)


def test_the_version_is_a_tag_on_the_branch_here_and_at_the_remote(place: Place) -> None:
    assert place.answer["state"] == "Published"
    note = json.loads(place.workspace.record("record").read_text())
    assert (note["version"], note["git_tag"], note["git_branch"]) == ("v2", TAG, "models")
    for repository in (place.workspace.root, place.origin):
        for name in ("models", f"{TAG}^{{commit}}"):
            assert place.git("rev-parse", name, at=repository) == note["git_commit"]
    assert note["digest"] in place.git("log", "-1", "--format=%B", "models")
    assert place.git("rev-parse", "models^") == place.before["head"]


def test_the_commit_holds_lock_parameters_and_records_beside_the_code(place: Place) -> None:
    for name in ("dvc.lock", "params.yaml", "data/reports/gate.json", "data/reports/push.json"):
        assert place.git("show", f"{TAG}:{name}") == (place.workspace.root / name).read_text().strip()
    assert place.git("show", f"{TAG}:tasks/train.py")
    assert "notes.txt" not in place.git("ls-tree", "-r", "--name-only", TAG)


def test_index_and_working_tree_are_left_alone(place: Place) -> None:
    assert state_of(place.workspace) == place.before
    assert (place.workspace.root / "notes.txt").read_text() == "mine, not yet committed\n"


def test_data_and_model_are_at_the_remote(place: Place) -> None:
    stored = {sha256_file(path) for path in place.store.rglob("*") if path.is_file()}
    for path in (place.workspace.candidate / "model.safetensors", place.workspace.prepared / "train.parquet"):
        assert sha256_file(path) in stored


def test_then_nothing_is_to_be_done_until_the_place_is_another(place: Place, tmp_path: Path) -> None:
    answer = json.loads(refit(place.workspace, "run").stdout)
    assert answer["state"] == "Unchanged"
    status = refit(place.workspace, "status")
    assert json.loads(status.stdout)["stale"] == []


def test_written_down_twice_it_is_one_commit(place: Place) -> None:
    before = place.workspace.record("record").read_bytes()
    done = execute(place.workspace, stage("record"))
    assert done.returncode == 0, done.stderr
    assert f"v2 written down: git tag {TAG} on models, git remote origin, DVC remote store" in done.stdout
    assert place.workspace.record("record").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"git_branch": "main"}, "InputError", "record.git_branch main: is checked out here"),
        ({"git_branch": "models", "git_remote": "nowhere"}, "NetworkError", "git remote nowhere: did not take it"),
        ({"dvc_remote": "nowhere"}, "NetworkError", "DVC remote nowhere: did not take it"),
    ],
)
def test_a_place_that_is_none_is_one_line(place: Place, tmp_path: Path, settings: dict[str, str], kind: str, said: str) -> None:
    copy = Workspace(Path(shutil.copytree(place.workspace.root, tmp_path / "copy", symlinks=True)))
    edit_params(copy, {"record": dict.fromkeys(("git_branch", "git_remote", "dvc_remote", "dataset_repo_id")) | settings})
    git(copy.root, "tag", "--delete", TAG)
    assert said in refused(execute(copy, stage("record")), 2 if kind == "InputError" else 1, kind)


@pytest.fixture(scope="module")
def reproduced(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = refit(place.workspace, "reproduce", "v2", "--into", str(tmp_path_factory.mktemp("again") / "v2"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_version_is_laid_out_as_it_was_made(place: Place, reproduced: dict[str, Any]) -> None:
    inside = Workspace(Path(reproduced["folder"]))
    assert reproduced["commit"] == place.before["head"]
    assert (reproduced["changed"], reproduced["differences"]) == ({}, {})
    version = place.workspace.data / "registry" / "versions" / "v2"
    for name in ("params.yaml", "dvc.lock"):
        assert (inside.root / name).read_bytes() == (version / name).read_bytes()
    assert tree_digest(inside.candidate) == tree_digest(place.workspace.candidate)
    assert tree_digest(inside.data / "raw") == tree_digest(place.workspace.data / "raw")
    assert state_of(place.workspace) == place.before


def test_what_the_cache_lacks_comes_from_the_remote(place: Place, tmp_path: Path) -> None:
    copy = Workspace(Path(shutil.copytree(place.workspace.root, tmp_path / "copy", symlinks=True)))
    shutil.rmtree(copy.root / ".dvc" / "cache")
    found = json.loads(refit(copy, "reproduce", "v2", "--into", str(tmp_path / "again")).stdout)
    assert (found["changed"], found["unfetched"], found["differences"]) == ({}, None, {})
    inside = Workspace(Path(found["folder"]))
    assert tree_digest(inside.candidate) == tree_digest(place.workspace.candidate)
    assert tree_digest(inside.prepared) == tree_digest(place.workspace.prepared)
    shutil.rmtree(copy.root / ".dvc" / "cache")
    edit_dvc = copy.root / ".dvc" / "config"
    edit_dvc.write_text(edit_dvc.read_text().replace(str(place.store), str(tmp_path / "moved")))
    found = json.loads(refit(copy, "reproduce", "v2", "--into", str(tmp_path / "without")).stdout)
    assert found["unfetched"]
    assert not Workspace(Path(found["folder"])).candidate.exists()


def test_what_would_differ_is_said(place: Place, tmp_path: Path) -> None:
    copy = Workspace(Path(shutil.copytree(place.workspace.root, tmp_path / "copy", symlinks=True)))
    version = copy.data / "registry" / "versions" / "v2"
    training = json.loads((version / "training.json").read_text())
    training["environment"]["packages"]["torch"] = "1.0"
    (version / "training.json").write_text(json.dumps(training))
    lock = (version / "dvc.lock").read_text()
    raw = lock[lock.index("path: data/raw") :]
    md5 = raw[raw.index("md5: ") + 5 :].split()[0]
    (version / "dvc.lock").write_text(lock.replace(md5, "0" * 32 + ".dir"))
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"] |= {name: sha256_file(version / name) for name in ("training.json", "dvc.lock")}
    (version / "manifest.json").write_text(json.dumps(manifest))
    found = json.loads(refit(copy, "reproduce", "v2", "--into", str(tmp_path / "again")).stdout)
    assert found["changed"] == {"data/raw": "modified"}
    assert found["differences"]["torch"][0] == "1.0"
    assert set(found["differences"]) == {"torch"}


def test_versions_that_cannot_be_laid_out_are_one_line(place: Place, tmp_path: Path) -> None:
    assert "v1: was made outside git" in refused(refit(place.workspace, "reproduce", "v1"), 2, "InputError")
    assert "no version v9" in refused(refit(place.workspace, "reproduce", "v9"), 1, "RegistryError")
    there = refit(place.workspace, "reproduce", "v2", "--into", str(tmp_path))
    assert "exists; name a new folder with --into" in refused(there, 2, "InputError")
