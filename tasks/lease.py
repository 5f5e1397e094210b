"""One writer to a workspace: whoever runs, approves or updates the data there waits for the one before.

Prefect's limit of concurrent runs counts by deployment and by server; this also holds between `refit run`, `refit serve` and a
worker, and while a server is lost. It is flock(2) on a file, so that the kernel ends the lease of a process that was killed.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from tasks.errors import WorkspaceBusyError
from tasks.paths import Workspace

_LOOK_SECONDS = 0.5


@contextmanager
def lease(workspace: Workspace, who: str, log: Callable[[str], None] | None) -> Iterator[None]:
    """Hold the workspace until the context ends.

    Args:
        who: What the others are told works there.
        log: Told whom this waits for; None: do not wait.

    Raises:
        WorkspaceBusyError: somebody else holds it, and `log` is None.
    """
    path = workspace.root / ".cache" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        told = False
        while not _locked(file):
            holder = _holder(file)
            if log is None:
                raise WorkspaceBusyError(f"{workspace.root}: {holder} works there; wait for it to end")
            if not told:
                log(f"waits for {holder}, which works in this workspace")
                told = True
            time.sleep(_LOOK_SECONDS)
        file.truncate(0)
        file.write(json.dumps({"who": who, "pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}))
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.loads(file.read())
        return f"{found['who']} (process {found['pid']}, since {found['since']})"
    except ValueError:  # it has just begun
        return "another run"
