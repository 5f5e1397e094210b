"""`refit versions`, `show` and `rollback` on a registry in a folder, and what is asked before a publication."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.status import _recorded
from tasks.errors import NotApprovedError, RegistryError
from tasks.files import parse_yaml
from tasks.local_registry import LocalRegistry
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.publishing_sections import Recording
from tasks.push import push
from tasks.records import TrainedModel, VersionRecord
from tasks.registry import open_registry
from tasks.versions import list_versions, show
from tests.unit.publishing import approve, make_workspace


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Params]:
    """v1 and v2 are published, the workspace is the current folder."""
    workspace, params = make_workspace(tmp_path / "workspace")
    workspace.lock.write_text("schema: '2.0'\n")
    for weights in (b"one", b"two"):
        approve(workspace, weights, open_registry(params.push, workspace).champion())
        push(open_registry(params.push, workspace), workspace, params)
    monkeypatch.chdir(workspace.root)
    return workspace, params


def answer(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    assert cli.main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_before_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, _ = make_workspace(tmp_path / "workspace")
    monkeypatch.chdir(workspace.root)
    assert cli.main(["versions"]) == 0
    assert capsys.readouterr().out == "local:data/registry: no version yet; `refit run` publishes the first\n"
    assert cli.main(["show", "v1"]) == 1
    assert "no version v1; there are []" in capsys.readouterr().err
    assert cli.main(["rollback", "--reason", "none"]) == 1
    assert "nothing was published, so there is nothing to roll back to" in capsys.readouterr().err


def test_versions_are_listed_with_what_became_of_them(
    place: tuple[Workspace, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "versions")["versions"]
    assert [(version["version"], version["champion"], version["withdrawn"]) for version in found] == [
        ("v1", False, None),
        ("v2", True, None),
    ]
    assert cli.main(["versions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["v1", "v2"]
    assert (lines[0].split()[-1], lines[1].split()[-1]) == ("replaced", "champion")


def test_rollback_moves_the_pointer_and_says_why(place: tuple[Workspace, Params], capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "rollback", "--reason", "rude replies")["version"] == "v1"
    registry = LocalRegistry(place[0].data / "registry")
    assert [(move.version, move.action, move.reason) for move in registry.history()][-1] == ("v1", "rollback", "rude replies")
    found = answer(capsys, "versions")["versions"]
    assert [(version["champion"], version["withdrawn"]) for version in found] == [(True, None), (False, "rude replies")]
    assert answer(capsys, "rollback", "v2", "--reason", "they were fine")["version"] == "v2"
    with pytest.raises(SystemExit):
        cli.main(["rollback"])
    assert "--reason" in capsys.readouterr().err


def test_a_version_tells_how_it_was_trained_and_judged(
    place: tuple[Workspace, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "show", "v2")
    assert found["decision"]["candidate_digest"] == found["digest"] == found["training"]["digest"]
    assert [(move["version"], move["previous"]) for move in found["moves"]] == [("v2", "v1")]
    assert cli.main(["show", "v2"]) == 0
    out = capsys.readouterr().out
    for text in ("v2 ", "publish after v1", "trained 48 steps", f"commit {'c' * 40}", "PASS: every rule passed"):
        assert text in out


def test_a_version_without_documents_is_shown_and_one_of_another_release_named(tmp_path: Path) -> None:
    workspace, _ = make_workspace(tmp_path / "workspace")
    digest = approve(workspace, b"one", None)
    registry = LocalRegistry(tmp_path / "registry")
    registry.publish(workspace.candidate, digest, {"README.md": b"#"}, None, "by hand")
    assert show(registry, "v1").decision is None
    digest = approve(workspace, b"two", registry.champion())
    registry.publish(workspace.candidate, digest, {"training.json": b'{"new": 1}'}, "v1", "by a newer one")
    with pytest.raises(RegistryError, match=r"training.json of v2 is of another release of Refit"):
        show(registry, "v2")
    assert [version.version for version in list_versions(registry)] == ["v1", "v2"]


def test_a_version_has_its_lineage(place: tuple[Workspace, Params]) -> None:
    workspace, params = place
    registry = open_registry(params.push, workspace)
    assert registry.document("v2", "dvc.lock") == workspace.lock.read_bytes()
    assert registry.document("v2", "params.yaml") == workspace.params.read_bytes()
    assert TrainedModel.model_validate_json(registry.document("v2", "training.json") or b"") == TrainedModel.read(
        workspace.record("train")
    )


@pytest.mark.parametrize("where", ["params.yaml", "dvc.lock", "tokenizer_config.json"])
def test_what_looks_like_a_key_stops_the_publication(tmp_path: Path, where: str) -> None:
    workspace, params = make_workspace(tmp_path / "workspace")
    (workspace.candidate).mkdir(parents=True)
    if where == "tokenizer_config.json":
        (workspace.candidate / where).write_text('{"name_or_path": "https://user:hunter2secret@example.com/model"}')
    else:
        with (workspace.root / where).open("a") as file:
            file.write(f"\n# ghp_{'a1' * 18}\n")
    approve(workspace, b"one", None)
    registry = open_registry(params.push, workspace)
    with pytest.raises(RegistryError, match=rf"^{where}: what looks like a key") as caught:
        push(registry, workspace, params)
    assert "a1a1" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert registry.versions() == []


def test_the_token_itself_is_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params = make_workspace(tmp_path / "workspace")
    monkeypatch.setenv("HF_TOKEN", "a token of no known shape")
    with workspace.params.open("a") as file:
        file.write("\n# a token of no known shape\n")
    approve(workspace, b"one", None)
    with pytest.raises(RegistryError, match=r"^params.yaml: what looks like a key"):
        push(open_registry(params.push, workspace), workspace, params)


def test_a_candidate_that_was_refused_is_published_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, params = make_workspace(tmp_path / "workspace")
    digest = approve(workspace, b"one", None)
    monkeypatch.chdir(workspace.root)
    assert cli.main(["reject", "00000000", "--reason", "no"]) == 1
    assert f"candidate 00000000: the one that waits is {digest[:12]}" in capsys.readouterr().err
    assert cli.main(["reject", digest[:8], "--reason", "it is rude"]) == 0
    registry = open_registry(params.push, workspace)
    for approval in (None, "I like it"):
        with pytest.raises(NotApprovedError, match=r"was refused \(it is rude\); train another"):
            push(registry, workspace, params, approval)
    assert registry.versions() == []
    approve(workspace, b"two", None)
    assert push(registry, workspace, params).published


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    LocalRegistry(tmp_path / "not" / "yet").check_access()
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match=r"file: not a folder that may be written; choose another push.path"):
        LocalRegistry(tmp_path / "file" / "registry").check_access()


def test_a_version_counts_as_written_down_only_where_it_is_wanted(tmp_path: Path) -> None:
    workspace, params = make_workspace(tmp_path / "workspace")
    assert (
        load_params(workspace.params).record
        == params.record
        == Recording(git_branch=None, git_remote=None, dvc_remote=None, dataset_repo_id=None)
    )
    wanted = Recording(git_branch="models", git_remote=None, dvc_remote="store", dataset_repo_id=None)
    assert _recorded(params.record, "v1", workspace)
    assert not _recorded(wanted, "v1", workspace)
    VersionRecord(
        version="v1",
        digest="d" * 64,
        git_branch="models",
        git_tag="a-v1",
        git_commit="c" * 40,
        git_remote=None,
        dvc_remote="store",
        dataset_repo_id=None,
    ).write(workspace.record("record"))
    assert _recorded(wanted, "v1", workspace)
    assert not _recorded(wanted, "v2", workspace)
    for place in ("git_remote", "dataset_repo_id"):
        assert not _recorded(wanted.model_copy(update={place: "a/b"}), "v1", workspace)


def test_shipped_parameters_write_down_nothing_and_publish_to_a_folder(tmp_path: Path) -> None:
    tree = parse_yaml((Path(__file__).parents[2] / "params.yaml").read_text())
    assert set(tree["record"].values()) == {None}
    assert (tree["push"]["registry"], tree["push"]["private"]) == ("local", True)
