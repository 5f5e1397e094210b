"""A workspace has one writer: the next one waits, and a killed one is waited for by nobody."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import WorkspaceBusyError
from tasks.lease import lease
from tasks.paths import Workspace

HOLD = """
import sys
from pathlib import Path
from tasks.lease import lease
from tasks.paths import Workspace
with lease(Workspace(Path(sys.argv[1])), "refit run", None):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_next_one_waits_and_is_told_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.lease._LOOK_SECONDS", 0.01)
    place, told, order = Workspace(tmp_path), threading.Event(), []
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        told.set()

    def second() -> None:
        with lease(place, "second", tell):
            order.append("second")

    with lease(place, "first", None):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert len(said) == 1
    assert said[0].startswith("waits for first (process ")


def test_who_does_not_wait_is_refused(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    with (
        lease(place, "first", None),
        pytest.raises(WorkspaceBusyError, match=r"first .* works there; wait for it to end"),
        lease(place, "x", None),
    ):
        raise AssertionError
    with lease(place, "second", None):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        busy = pytest.raises(WorkspaceBusyError, match=rf"refit run \(process {holder.pid}, since ")
        with busy, lease(Workspace(tmp_path), "x", None):
            raise AssertionError
        holder.kill()
        holder.wait()
        with lease(Workspace(tmp_path), "next", None):
            pass
