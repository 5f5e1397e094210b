"""A publication killed before any of its file operations, and two at once: one whole new version or none."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tasks.champion import champion
from tasks.evaluation_records import GateDecision
from tasks.files import tree_digest
from tasks.local_registry import LocalRegistry
from tasks.params import Params
from tasks.paths import Workspace
from tasks.push import push
from tasks.records import PushReceipt
from tasks.registry import open_registry
from tests.unit.publishing import approve, make_workspace, write_model

SIZE = 20 << 20
_FORK = multiprocessing.get_context("fork")
_WATCHED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def _watch(root: Path, act: Callable[[], None]) -> None:
    """Call `act` before each operation on a file below `root` and each fsync, and in the middle of each copy.

    Audit hooks cannot be removed: only for a child process.
    """
    prefix = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _WATCHED and isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(prefix):
            act()
            if event == "open" and arguments[2] & os.O_TRUNC and os.path.exists(arguments[0]):  # noqa: PTH110
                os.truncate(arguments[0], 0)  # what opening it does next; between that and the first write is another moment
                act()

    def fsync(handle: int) -> None:
        act()  # without waiting for the disk: a kill loses nothing that was written

    def copyfileobj(reader: IO[bytes], writer: IO[bytes], length: int) -> None:
        data = reader.read()
        writer.write(data[: len(data) // 2])
        writer.flush()
        act()
        writer.write(data[len(data) // 2 :])

    os.fsync, shutil.copyfileobj = fsync, copyfileobj  # type: ignore[assignment]
    sys.addaudithook(hook)


def _push(workspace: Workspace, params: Params) -> PushReceipt:
    return push(open_registry(params.push, workspace), workspace, params)


def _count(workspace: Workspace, params: Params, result: Any) -> None:
    seen = 0

    def act() -> None:
        nonlocal seen
        seen += 1

    _watch(workspace.root, act)
    _push(workspace, params)
    result.put(seen)


def _die_at(workspace: Workspace, params: Params, number: int) -> None:
    left = number

    def act() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(workspace.root, act)
    _push(workspace, params)


def _prepare(root: Path) -> tuple[Workspace, Params]:
    """v1 is the champion, and a candidate of 20 MB is approved against it."""
    workspace, params = make_workspace(root)
    approve(workspace, b"one", None)
    _push(workspace, params)
    registry = open_registry(params.push, workspace)
    workspace.record("push").unlink()
    approve(workspace, bytes(range(256)) * (SIZE // 256), registry.champion())
    champion(registry, workspace)
    return workspace, params


def _folder(workspace: Workspace, params: Params) -> Path:
    return workspace.root / params.push.path


def _listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _reset(workspace: Workspace, params: Params, first: Path) -> None:
    shutil.rmtree(_folder(workspace, params))
    shutil.copytree(first, _folder(workspace, params))
    workspace.record("push").unlink(missing_ok=True)


def _check_readers(workspace: Workspace, params: Params) -> None:
    """What a reader finds between the kill and the next publication: whole versions, and v1 or v2 as the champion."""
    registry = LocalRegistry(_folder(workspace, params))
    pointer = registry.champion()
    assert pointer is not None
    assert pointer.version in ("v1", "v2")
    assert registry.versions() in (["v1"], ["v1", "v2"])
    for version in registry.versions():
        registry.verify(version)
    assert registry.digest(pointer.version) == pointer.digest
    assert registry.history()[-1].version == pointer.version
    receipt = workspace.record("push")
    assert not receipt.exists() or (PushReceipt.read(receipt).version, pointer.version) == ("v2", "v2")


def test_killed_at_every_operation(tmp_path: Path) -> None:
    workspace, params = _prepare(tmp_path / "workspace")
    first = tmp_path / "first"
    shutil.copytree(_folder(workspace, params), first)
    digest = GateDecision.read(workspace.record("gate")).candidate_digest

    result = _FORK.SimpleQueue()
    child = _FORK.Process(target=_count, args=(workspace, params, result))
    child.start()
    total = result.get()
    child.join()
    assert total > 50, "the hook saw too few operations to mean anything"
    expected = _listing(_folder(workspace, params))
    assert expected[:4] == [".lock", "champion.json", "history.jsonl", "versions"]

    moved, staged = 0, 0
    for number in range(1, total + 1):
        _reset(workspace, params, first)
        child = _FORK.Process(target=_die_at, args=(workspace, params, number))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"operation {number} of {total}"
        _check_readers(workspace, params)
        registry = LocalRegistry(_folder(workspace, params))
        pointer = registry.champion()
        moved += pointer is not None and pointer.version == "v2"
        staged += registry.versions() == ["v1", "v2"]

        receipt = _push(workspace, params)
        assert (receipt.version, receipt.digest, receipt.previous_version) == ("v2", digest, "v1")
        assert registry.verify("v2").model_digest == digest
        assert _listing(_folder(workspace, params)) == expected, f"leftovers after operation {number} of {total}"
        assert [(move.version, move.previous) for move in registry.history()] == [("v1", None), ("v2", "v1")]
        assert not list(workspace.record("push").parent.glob(".*")), f"leftovers after operation {number} of {total}"
    assert 0 < moved < staged < total, "no kill fell between the rename of the version and the move of the pointer"


def _publish_at_once(folder: Path, model: Path, barrier: Any, result: Any) -> None:
    registry = LocalRegistry(folder)
    digest = tree_digest(model)
    barrier.wait()
    try:
        result.put(registry.publish(model, digest, {"README.md": b"#"}, "v1", model.name).version)
    except Exception as error:  # whatever it is: the parent waits for an answer
        result.put(type(error).__name__)


@pytest.mark.parametrize("same_model", [False, True])
def test_two_publishers_at_once(tmp_path: Path, same_model: bool) -> None:
    folder = tmp_path / "registry"
    registry = LocalRegistry(folder)
    registry.publish(tmp_path / "first", write_model(tmp_path / "first", b"1"), {"README.md": b"#"}, None, "first")
    models = [tmp_path / "left", tmp_path / "right"]
    digests = [write_model(model, (b"same" if same_model else model.name.encode()) * (1 << 20)) for model in models]
    barrier, result = _FORK.Barrier(2), _FORK.SimpleQueue()
    children = [_FORK.Process(target=_publish_at_once, args=(folder, model, barrier, result)) for model in models]
    for child in children:
        child.start()
    outcome = sorted(result.get() for _ in children)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert outcome == (["v2", "v2"] if same_model else ["StaleChampionError", "v2"])
    pointer = registry.champion()
    assert pointer is not None
    assert (pointer.version, pointer.previous) == ("v2", "v1")
    assert pointer.digest in digests
    assert registry.versions() == ["v1", "v2"]
    assert registry.verify("v2").model_digest == pointer.digest
    assert len(registry.history()) == 2
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "champion.json", "history.jsonl", "versions"]
