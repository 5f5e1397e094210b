"""A local folder as the base model: what is refused, before anything is replaced. No weights are loaded here."""

import json
import struct
from pathlib import Path

import pytest

from tasks import base as stage
from tasks.base import fetch_base, folder_changed
from tasks.errors import BaseModelError
from tasks.files import MODEL_FILES, hash_tree, sha256_file, write_json
from tasks.model_folder import INDEX, weights_sha256
from tasks.records import BaseModelRecord
from tasks.sections import FolderBase
from tests.unit.publishing import write_model


def safetensors(path: Path, shapes: dict[str, list[int]], **metadata: str) -> Path:
    """A file with this header and no tensor data."""
    header: dict[str, object] = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header | ({"__metadata__": metadata} if metadata else {})).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder that has all that is asked of a base model, and files that are not to be copied."""
    folder = tmp_path / "source"
    folder.mkdir()
    safetensors(folder / "model.safetensors", {"embed": [10, 4], "norm": [4], "scale": []}, format="pt")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    for name in ("pytorch_model.bin", "modeling_custom.py", "optimizer.pt"):
        (folder / name).write_bytes(b"code")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The result of an earlier run."""
    folder = tmp_path / "data" / "base"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"earlier")
    return folder


def fetch(source: Path, target: Path, sha256: str = "") -> BaseModelRecord:
    section = FolderBase(
        source="folder", chat_template=None, path=str(source), sha256=sha256 or sha256_file(source / "model.safetensors")
    )
    return fetch_base(section, target, target.parent / "base.json")


def refusal(source: Path, target: Path, sha256: str = "0" * 64) -> str:
    """The message; checks that the earlier result is as it was, without a new record or leftovers."""
    with pytest.raises(BaseModelError) as caught:
        fetch(source, target, sha256)
    assert hash_tree(target.parent) == {"base/model.safetensors": sha256_file(target / "model.safetensors")}
    assert (target / "model.safetensors").read_bytes() == b"earlier"
    assert [path.name for path in target.parent.iterdir()] == ["base"]
    return str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, target: Path) -> None:
    message = refusal(tmp_path / "absent", target)
    assert str(tmp_path / "absent") in message
    assert "relative paths start at the workspace" in message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_of_the_model_is_refused(source: Path, target: Path, name: str) -> None:
    """Here, and not by a later stage that would say that this one has not finished."""
    digest = sha256_file(source / "model.safetensors")
    (source / name).unlink()
    assert f"{source} has no {name}" in refusal(source, target, digest)


def test_other_weights_are_refused_with_both_hashes_and_a_way_out(source: Path, target: Path) -> None:
    message = refusal(source, target, "1" * 64)
    assert message == (
        f"base.sha256: model.safetensors has sha256 {sha256_file(source / 'model.safetensors')}, wanted {'1' * 64}; "
        "if you trust it, write that hash into params.yaml"
    )


def test_a_good_folder_is_copied_without_pickles_and_code(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_check_usable", lambda folder, source: None)
    record = fetch(source, target)
    assert BaseModelRecord.read(target.parent / "base.json") == record
    wanted = {name: digest for name, digest in hash_tree(source).items() if name in MODEL_FILES}
    assert len(wanted) == 5
    assert hash_tree(target) == wanted == record.files
    assert (record.source, record.n_parameters) == (str(source), 45)
    assert {path.name for path in target.parent.iterdir()} == {"base", "base.json"}


SHARDS = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]


@pytest.fixture
def sharded(source: Path) -> Path:
    """The same model with its weights in two files, and one that its index does not name."""
    (source / "model.safetensors").unlink()
    safetensors(source / SHARDS[0], {"embed": [10, 4]}, format="pt")
    safetensors(source / SHARDS[1], {"norm": [4], "scale": []}, format="pt")
    safetensors(source / "model-00003-of-00003.safetensors", {"other": [1]})
    write_json(source / INDEX, {"weight_map": {"embed": SHARDS[0], "norm": SHARDS[1], "scale": SHARDS[1]}})
    return source


def test_weights_in_shards_are_copied_with_their_index(sharded: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_check_usable", lambda folder, source: None)
    record = fetch(sharded, target, weights_sha256(sharded))
    assert {INDEX, *SHARDS} <= set(record.files)
    assert set(record.files) - {INDEX, *SHARDS} <= set(MODEL_FILES)
    assert hash_tree(target) == record.files
    assert record.n_parameters == 45


@pytest.mark.parametrize("harm", ["lost", "outside", "index", "empty"])
def test_shards_that_are_not_whole_are_refused(sharded: Path, target: Path, harm: str) -> None:
    if harm == "lost":
        (sharded / SHARDS[1]).unlink()
    elif harm == "outside":
        safetensors(sharded.parent / SHARDS[1], {"norm": [4]})
        write_json(sharded / INDEX, {"weight_map": {"embed": SHARDS[0], "norm": f"../{SHARDS[1]}"}})
    else:
        (sharded / INDEX).write_text("[" if harm == "index" else '{"weight_map": {}}')
    assert f"{sharded} has no model.safetensors, nor {INDEX} with each of its shards" in refusal(sharded, target)


@pytest.mark.parametrize("name", [*SHARDS, INDEX])
def test_another_shard_or_index_is_another_hash(sharded: Path, target: Path, name: str) -> None:
    before = weights_sha256(sharded)
    (sharded / name).write_bytes((sharded / name).read_bytes() + b" ")
    message = refusal(sharded, target, before)
    assert f"{INDEX} with its shards has sha256 {weights_sha256(sharded)}, wanted {before}" in message


def test_a_tokenizer_that_is_refused_leaves_the_earlier_base(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, source: str) -> None:
        raise BaseModelError(f"base {source}: no chat template")

    monkeypatch.setattr(stage, "_check_usable", refuse)
    assert "no chat template" in refusal(source, target, sha256_file(source / "model.safetensors"))


def test_parameters_are_counted_from_the_header(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a.safetensors", {"a": [3, 5], "b": [7], "scalar": [], "empty": [0, 9]}, format="pt")
    assert stage._count_parameters(path) == 15 + 7 + 1


def test_an_edited_file_of_a_folder_is_noticed(tmp_path: Path) -> None:
    """DVC does not look there."""
    digest = write_model(tmp_path / "base", b"weights")
    record = BaseModelRecord(source="base", digest=digest, files=hash_tree(tmp_path / "base"), n_parameters=1)
    section = FolderBase(source="folder", path="base", sha256="0" * 64, chat_template=None)
    assert not folder_changed(section, tmp_path, record)
    (tmp_path / "base" / "notes.txt").write_text("not a file of a model")
    assert not folder_changed(section, tmp_path, record)
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    assert folder_changed(section, tmp_path, record)
    assert not folder_changed(section.model_copy(update={"chat_template": "qwen3"}), tmp_path, record)
    (tmp_path / "base" / "config.json").write_text("{}")
    assert folder_changed(section.model_copy(update={"chat_template": "qwen3"}), tmp_path, record)
