"""`refit serve` as a process, and its Prefect server as a client sees it."""

import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from tasks.paths import Workspace
from tests.conftest import build_tiny_base, build_workspace, free_port

Found = TypeVar("Found")
_WORDS = [f"{first}{second}" for first in ("cat", "key", "order", "rain") for second in ("board", "fall", "box", "bow", "hole")]
SECONDS = 600  # on a busy machine; far less on an idle one


def processes(workspace: Workspace, *words: bytes) -> list[int]:
    """Those that run in the workspace with all of these words in their command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if set(words) <= set(command) and (folder / "cwd").resolve() == workspace.root.resolve():
                found.append(int(folder.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def new_rows(workspace: Workspace, seed: int = 0) -> str:
    """Five lines of JSON, no near-duplicates of any other: so many that not all of them can miss the training split."""
    row, draw = json.loads((workspace.data / "raw" / "orders.jsonl").read_text().splitlines()[0]), random.Random(seed)
    lines = []
    for number in range(5):
        row["messages"][-2]["content"] = " ".join(draw.sample(_WORDS, 14))
        lines.append(json.dumps({**row, "id": f"new-{seed}-{number}"}) + "\n")
    return "".join(lines)


def until(process: "subprocess.Popen[bytes]", log: Path, look: Callable[[], Found], what: str, seconds: int = SECONDS) -> Found:
    """The first true value of `look`; fails with the log if it never comes or the process ends."""
    for _ in range(seconds * 2):
        try:
            if found := look():
                return found
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"{what} did not come:\n{log.read_text(errors='replace')}")


def answers(api: str) -> bool:
    """Whether a Prefect server is there; raises as `until` passes over while it is not."""
    with urllib.request.urlopen(f"{api}/health", timeout=5):
        return True


class Service:
    """Started on a free port with a Prefect home of its own; the context ends it."""

    def __init__(self, workspace: Workspace, home: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        port = free_port()
        self.workspace, self.api = workspace, f"http://127.0.0.1:{port}/api"
        self.home, self._options, self._log = home, options, home / "serve.log"
        home.mkdir(exist_ok=True)
        self._env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_API_PORT": str(port),
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            **(env or {}),
        }
        self._password = self._env.get("PREFECT_SERVER_API_AUTH_STRING")
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until the service has said where it is: all it registers is there by then."""
        command = [sys.executable, "-m", "flows.cli", "serve", *self._options]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.workspace.root, env=self._env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.until(self._is_announced, "the service")

    def _is_announced(self) -> bool:
        """By this process: one that was killed leaves its file."""
        served = self.workspace.served
        return served.exists() and json.loads(served.read_text())["pid"] == self.process.pid

    def stop(self) -> None:
        """As a service manager does it."""
        self.process.terminate()
        self.process.wait(60)

    def until(self, look: Callable[[], Found], what: str, seconds: int = SECONDS) -> Found:
        """As the function of this name, while the service lives."""
        return until(self.process, self._log, look, what, seconds)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.api, auth_string=self._password)

    def read(self, what: str) -> list[dict[str, Any]]:
        """All deployments or automations."""
        found: list[dict[str, Any]] = json.loads(self.ask(f"{what}/filter", b"{}"))
        return found

    def ask(self, path: str, data: bytes | None = None) -> bytes:
        """What the server says at a path of its API; asked by POST if there are data."""
        request = urllib.request.Request(f"{self.api}/{path}", data=data, headers={"Content-Type": "application/json"})
        if self._password:
            request.add_header("Authorization", f"Basic {base64.b64encode(self._password.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            said: bytes = answer.read()
        return said

    def runs(self) -> list[Any]:
        """All runs of `retrain`, the oldest first."""
        deployment = self.retrain()["id"]
        with self.client() as client:
            found = client.read_flow_runs()
        return sorted((run for run in found if str(run.deployment_id) == deployment), key=lambda run: run.created)

    def retrain(self) -> dict[str, Any]:
        """The deployment of `retrain`."""
        (found,) = [found for found in self.read("deployments") if found["entrypoint"].endswith("retrain")]
        return found

    def start_run(self, **parameters: Any) -> UUID:
        """A run as the dashboard starts it; its id."""
        with self.client() as client:
            run = client.create_flow_run_from_deployment(self.retrain()["id"], parameters={"reason": "by hand", **parameters})
        found: UUID = run.id
        return found

    def ended(self, run: UUID) -> Any:
        """The run once it has come to its end."""

        def look() -> Any:
            with self.client() as client:
                found = client.read_flow_run(run)
            return found if found.state and found.state.is_final() else None

        return self.until(look, f"the end of run {run}")

    def started_because(self, reason: str, after: float = 0) -> Any:
        """A run that gives this reason, once there is one, and its end."""

        def look() -> Any:
            fitting = [run for run in self.runs() if str(run.parameters.get("reason", "")).startswith(reason)]
            due = [run for run in fitting if run.expected_start_time.timestamp() <= time.time() + 1]
            return next((run for run in due if run.created.timestamp() > after), None)

        return self.ended(self.until(look, f"a run for {reason}").id)


@contextmanager
def served(quiet_seconds: int) -> Iterator[Service]:
    """A service without a clock on the tiny model, all of it in a temporary folder, once its first run has ended."""
    os.environ.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        workspace = build_workspace(home / "workspace", build_tiny_base(home / "base"))
        with Service(workspace, home / "prefect", "--cron", "none", "--quiet-seconds", str(quiet_seconds)) as service:
            service.ended(service.until(service.runs, "the first run, for data that are new")[0].id)
            yield service
