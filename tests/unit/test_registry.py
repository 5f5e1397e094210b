"""The registry in a folder: versions, pointer, history, and what it refuses."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tasks.errors import NotApprovedError, RegistryError, StageInputError, StaleChampionError
from tasks.files import hash_tree, tree_digest
from tasks.local_registry import LocalRegistry
from tasks.registry import Pointer
from tests.unit.publishing import snapshot, write_model

DOCUMENTS = {"README.md": b"# card\n", "decision.json": b"{}\n"}


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def publish(registry: LocalRegistry, name: str) -> Pointer:
    """Publish a model with its own bytes over whatever is the champion."""
    model = registry.path.parent / name
    digest = write_model(model, name.encode())
    champion = registry.champion()
    return registry.publish(model, digest, DOCUMENTS, champion.version if champion else None, f"gate passed {name}")


def test_empty_registry_is_read_without_being_created(registry: LocalRegistry) -> None:
    assert registry.champion() is None
    assert registry.versions() == []
    assert registry.find("0" * 64) is None
    assert not registry.path.exists()


def test_first_version_has_model_documents_and_manifest(registry: LocalRegistry) -> None:
    pointer = publish(registry, "one")
    folder = registry.path / "versions" / "v1"
    assert (pointer.version, pointer.previous) == ("v1", None)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "decision.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    manifest = registry.verify("v1")
    assert manifest.model_digest == pointer.digest == tree_digest(registry.path.parent / "one")
    assert manifest.files == {name: sha for name, sha in hash_tree(folder).items() if name != "manifest.json"}
    assert registry.champion() == pointer


def test_pointer_and_history_follow_two_versions(registry: LocalRegistry) -> None:
    publish(registry, "one")
    assert publish(registry, "two").previous == "v1"
    assert registry.versions() == ["v1", "v2"]
    lines = (registry.path / "history.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert [(move.version, move.previous, move.reason) for move in registry.history()] == [
        ("v1", None, "gate passed one"),
        ("v2", "v1", "gate passed two"),
    ]


def test_versions_sort_by_number(registry: LocalRegistry) -> None:
    for number in range(11):
        publish(registry, f"m{number}")
    assert registry.versions()[-2:] == ["v10", "v11"]


def test_publishing_again_changes_nothing(registry: LocalRegistry) -> None:
    publish(registry, "one")
    pointer = publish(registry, "two")
    before = snapshot(registry.path)
    model = registry.path.parent / "two"
    assert registry.publish(model, pointer.digest, DOCUMENTS, "v1", "retried") == pointer
    assert snapshot(registry.path) == before


def test_staged_version_is_found_by_digest_and_only_the_pointer_moves(registry: LocalRegistry) -> None:
    publish(registry, "one")
    model = registry.path.parent / "two"
    digest = write_model(model, b"two")
    assert registry.stage(model, digest, DOCUMENTS) == "v2"
    assert registry.stage(model, digest, DOCUMENTS) == "v2"
    assert registry.champion() == registry.promote("v1", None, "no move")
    assert registry.publish(model, digest, DOCUMENTS, "v1", "retried").version == "v2"
    assert registry.versions() == ["v1", "v2"]


def test_a_version_is_removed_whole_and_its_number_stays_taken(registry: LocalRegistry) -> None:
    for name in ("one", "two"):
        publish(registry, name)
    registry.remove("v1")
    assert registry.versions() == ["v2"]
    assert sorted(path.name for path in registry.path.iterdir()) == [".lock", "champion.json", "history.jsonl", "versions"]
    assert [move.version for move in registry.history()] == ["v1", "v2"]
    assert publish(registry, "one").version == "v3", "the same bytes as v1, as a new version"
    with pytest.raises(RegistryError, match="v3 is the champion; roll back"):
        registry.remove("v3")
    with pytest.raises(RegistryError, match="no version v1"):
        registry.remove("v1")


def test_stale_champion_is_refused_and_leaves_nothing(registry: LocalRegistry) -> None:
    publish(registry, "one")
    before = snapshot(registry.path)
    model = registry.path.parent / "two"
    digest = write_model(model, b"two")
    with pytest.raises(StaleChampionError, match="the champion is v1, wanted none"):
        registry.publish(model, digest, DOCUMENTS, None, "judged before v1 was")
    assert snapshot(registry.path) == before
    registry.stage(model, digest, DOCUMENTS)
    with pytest.raises(StaleChampionError):
        registry.promote("v2", "v7", "wrong expectation")
    assert registry.champion() == Pointer(version="v1", digest=registry.digest("v1"), previous=None)


def test_leftovers_of_a_killed_publication_are_removed(registry: LocalRegistry) -> None:
    publish(registry, "one")
    (registry.path / ".staging").mkdir()
    (registry.path / ".staging" / "model.safetensors").write_bytes(b"half")
    (registry.path / ".champion.json.4711.tmp").write_bytes(b"{")
    publish(registry, "two")
    assert sorted(path.name for path in registry.path.iterdir()) == [".lock", "champion.json", "history.jsonl", "versions"]


def test_unfinished_line_of_history_is_replaced(registry: LocalRegistry) -> None:
    publish(registry, "one")
    first = (registry.path / "champion.json").read_bytes()
    publish(registry, "two")
    (registry.path / "champion.json").write_bytes(first)  # as if killed between the two writes
    assert [move.version for move in registry.history()] == ["v1"]
    publish(registry, "two")
    assert [move.version for move in registry.history()] == ["v1", "v2"]


@pytest.mark.parametrize("name", ["training_args.bin", "modeling_x.py", ".env", "pytorch_model.bin", "optimizer.pt"])
def test_file_that_is_not_allowed_is_named(registry: LocalRegistry, tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "model", b"x")
    (tmp_path / "model" / name).write_bytes(b"secret")
    with pytest.raises(RegistryError, match=f"may not be published: {name};"):
        registry.stage(tmp_path / "model", tree_digest(tmp_path / "model"), DOCUMENTS)
    assert registry.versions() == []


def test_links_and_folders_in_the_model_are_refused(registry: LocalRegistry, tmp_path: Path) -> None:
    write_model(tmp_path / "model", b"x")
    (tmp_path / "model" / "vocab.json").symlink_to("/etc/hostname")
    (tmp_path / "model" / "sub.safetensors").mkdir()
    with pytest.raises(RegistryError, match=r"sub.safetensors \(not a regular file\), vocab.json \(a symbolic link\)"):
        registry.stage(tmp_path / "model", tree_digest(tmp_path / "model"), DOCUMENTS)


def test_folder_without_a_model_is_refused(registry: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(StageInputError, match="no model"):
        registry.stage(tmp_path / "model", "0" * 64, DOCUMENTS)


def test_other_bytes_than_announced_are_refused(registry: LocalRegistry, tmp_path: Path) -> None:
    write_model(tmp_path / "model", b"x")
    with pytest.raises(RegistryError, match="changed meanwhile"):
        registry.stage(tmp_path / "model", "0" * 64, DOCUMENTS)
    assert snapshot(registry.path) == {}


def test_bytes_that_read_back_differently_are_refused(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = write_model(tmp_path / "model", b"x" * 100)
    monkeypatch.setattr(shutil, "copyfileobj", lambda reader, writer, length: writer.write(reader.read()[:-1] + b"!"))
    with pytest.raises(RegistryError, match=r"config.json, model.safetensors, tokenizer.json read back otherwise"):
        registry.stage(tmp_path / "model", digest, DOCUMENTS)
    assert snapshot(registry.path) == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_said_and_leaves_nothing(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    publish(registry, "one")
    before = snapshot(registry.path)
    digest = write_model(tmp_path / "model", b"x" * 100)

    def full(reader: object, writer: object, length: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(RegistryError, match="no space left"):
        registry.publish(tmp_path / "model", digest, DOCUMENTS, "v1", "")
    assert snapshot(registry.path) == before


def test_other_faults_of_the_system_keep_their_type(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = write_model(tmp_path / "model", b"x")

    def broken(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="I/O error"):
        registry.publish(tmp_path / "model", digest, DOCUMENTS, None, "")
    assert snapshot(registry.path) == {}


def test_damage_is_found(registry: LocalRegistry) -> None:
    publish(registry, "one")
    folder = registry.path / "versions" / "v1"
    (folder / "tokenizer.json").write_text("{1}")
    (folder / "README.md").unlink()
    (folder / "extra.py").write_text("")
    with pytest.raises(RegistryError, match=r"README.md, extra.py, tokenizer.json differ"):
        registry.verify("v1")
    with pytest.raises(RegistryError, match=r"tokenizer.json: damaged"):
        registry.fetch("v1", registry.path.parent / "fetched")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(RegistryError, match="not a manifest"):
        registry.verify("v1")


def test_unknown_version_and_broken_pointer(registry: LocalRegistry) -> None:
    publish(registry, "one")
    with pytest.raises(RegistryError, match=r"no version v9; there are \['v1'\]"):
        registry.verify("v9")
    with pytest.raises(RegistryError, match=r"no version \.\./v1"):
        registry.fetch("../v1", registry.path.parent / "fetched")
    (registry.path / "champion.json").write_text("{")
    with pytest.raises(RegistryError, match="not a pointer"):
        registry.champion()


def test_fetch_copies_the_model_only(registry: LocalRegistry) -> None:
    pointer = publish(registry, "one")
    target = registry.path.parent / "deep" / "fetched"
    registry.fetch("v1", target)
    assert tree_digest(target) == pointer.digest


def test_rollback_goes_back_one_by_one_and_keeps_the_history(registry: LocalRegistry) -> None:
    for name in ("one", "two", "three"):
        publish(registry, name)
    assert registry.rollback(None, "bad replies").version == "v2"
    assert registry.rollback(None, "worse").version == "v1"
    assert registry.champion() == Pointer(version="v1", digest=registry.digest("v1"), previous=None)
    assert [(move.version, move.previous, move.reason) for move in registry.history()[3:]] == [
        ("v2", "v3", "bad replies"),
        ("v1", "v2", "worse"),
    ]
    with pytest.raises(RegistryError, match="v1 replaced no other version"):
        registry.rollback(None, "again")


def test_rollback_by_name_can_be_repeated(registry: LocalRegistry) -> None:
    for name in ("one", "two", "three"):
        publish(registry, name)
    assert registry.rollback("v1", "bad") == registry.rollback("v1", "bad")
    assert len(registry.history()) == 4
    assert registry.rollback("v3", "was fine") == Pointer(version="v3", digest=registry.digest("v3"), previous="v2")


def test_rollback_without_versions_or_to_a_damaged_one_changes_nothing(registry: LocalRegistry) -> None:
    with pytest.raises(RegistryError, match="nothing was published"):
        registry.rollback(None, "")
    publish(registry, "one")
    champion = publish(registry, "two")
    (registry.path / "versions" / "v1" / "config.json").write_text("?")
    with pytest.raises(RegistryError, match="damaged"):
        registry.rollback(None, "")
    assert registry.champion() == champion


def test_model_that_was_rolled_back_is_not_published_again(registry: LocalRegistry) -> None:
    publish(registry, "one")
    digest = publish(registry, "two").digest
    registry.rollback(None, "rude")
    assert registry.withdrawn(digest) == "rude"
    with pytest.raises(NotApprovedError, match=r"rolled back \(rude\)"):
        publish(registry, "two")
    assert publish(registry, "three").version == "v3"
    registry.rollback("v2", "it was not rude")
    assert registry.withdrawn(digest) is None
