"""Commands in a workspace as a person starts them, and what each of them left there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.paths import Workspace
from tasks.repro import STAGES

REFIT = (str(Path(sys.executable).with_name("refit")),)
TIMEOUT = 900.0  # of a command that hangs; a whole run beside other tiers has taken 300
Done = subprocess.CompletedProcess[str]


def execute(workspace: Workspace, command: Sequence[str], **settings: Any) -> Done:
    """Run a command with the workspace as its current folder; `settings` are those of `subprocess.run`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", **settings.pop("env", {})}
    return subprocess.run(
        command, cwd=workspace.root, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False, **settings
    )


def add_defects(workspace: Workspace) -> Workspace:
    """Put a row that validation refuses and one that is there already into the raw data."""
    path = workspace.data / "raw" / "delivery.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as rows:
        rows.write('{"id": "broken", "topic"\n' + json.dumps({**first, "id": "twice"}) + "\n")
    return workspace


def stage(name: str, *arguments: str) -> list[str]:
    """The command of one stage, as in dvc.yaml."""
    return [sys.executable, "-m", f"tasks.{name}", *arguments]


@dataclass(frozen=True)
class Step:
    """A command that ended: its output, the stages whose record it wrote anew, and a copy of the workspace right after it."""

    done: Done
    ran: list[str]
    left: Workspace

    @property
    def output(self) -> str:
        return self.done.stdout + self.done.stderr


def take(workspace: Workspace, command: Sequence[str], copy: Path, **settings: Any) -> Step:
    before = _stamps(workspace)
    done = execute(workspace, command, **settings)
    after = _stamps(workspace)
    shutil.copytree(workspace.root, copy)
    return Step(done, [name for name in STAGES if after[name] != before[name]], Workspace(copy))


def _stamps(workspace: Workspace) -> dict[str, int | None]:
    records = {name: workspace.record(name) for name in STAGES}
    return {name: record.stat().st_mtime_ns if record.exists() else None for name, record in records.items()}


def refused(done: Done, code: int, kind: str) -> str:
    """The one message of a command that had to end with `code`, an error of `kind` and without a traceback anywhere."""
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output, output
    (first,) = (number for number, line in enumerate(done.stderr.splitlines()) if line.startswith("refit: "))
    message = done.stderr.splitlines()[first:]
    assert message[0].startswith(f"refit: {kind}: "), output
    assert all(line.startswith("  ") for line in message[1:]), output
    return "\n".join(message)
