"""A team's server on PostgreSQL; SIGKILL to a worker and its run, as when a machine is lost: another worker finishes the run."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest

from flows.recovery import DEAD_SECONDS, HEARTBEAT_SECONDS
from tasks.paths import Workspace
from tests.conftest import REPO, MakeWorkspace
from tests.postgres import Postgres
from tests.serving import processes, until
from tests.webhook import listening

pytestmark = pytest.mark.slow

Found = TypeVar("Found")
LATE_SECONDS = 60  # of a server that looks at its automations now and then, on a busy machine
PAGE = 200  # as many lines as the server gives at once


def execute(workspace: Workspace, env: Mapping[str, str], *words: str) -> None:
    command = [sys.executable, "-m", *words]
    env = {**env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])}  # `dvc repro` calls `python`
    done = subprocess.run(command, cwd=workspace.root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Worker:
    """Of the pool of deployments/prefect.yaml."""

    def __init__(self, workspace: Workspace, env: Mapping[str, str], log: Path) -> None:
        self._workspace, self._log = workspace, log
        command = [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", "refit"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=workspace.root, env=env, stdout=output, stderr=subprocess.STDOUT)

    def until(self, look: Callable[[], Found], what: str) -> Found:
        """As `tests.serving.until`, while the worker lives."""
        return until(self._process, self._log, look, what)

    def lose(self) -> None:
        """Kill it, and its runs."""
        self._process.kill()
        for run in processes(self._workspace, b"-m", b"prefect.engine"):
            os.kill(run, signal.SIGKILL)
        self._process.wait()


@contextmanager
def worker(workspace: Workspace, env: Mapping[str, str], log: Path) -> Iterator[Worker]:
    found = Worker(workspace, env, log)
    try:
        yield found
    finally:
        found.lose()


def logged(client: Any, run: UUID) -> str:
    """What the run has logged to the server."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
    pages = takewhile(bool, (client.read_logs(of_run, PAGE, start) for start in count(0, PAGE)))
    return "\n".join(line.message for page in pages for line in page)


def test_a_run_of_a_lost_worker_is_seen_dead_and_finished_by_another(
    make_workspace: MakeWorkspace, tmp_path: Path, prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is deployed from another clone than the one that the workers have."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import TERMINAL_STATES

    from flows.server import server

    told, messages = {"notify.blocks": ["custom-webhook/listener"]}, list[dict[str, str]]()

    def told_of(run: UUID) -> list[str]:
        return [message["told"] for message in messages if f"/{run}" in message["told"]]

    workspace = make_workspace(**told, **{"train.max_steps": 200, "train.eval_steps": 10})
    execute(workspace, os.environ, "dvc", "repro", "validate")  # so that the watch knows the data, and starts no run for them
    with Postgres() as database, ExitStack() as stack:
        monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database.url)
        address = stack.enter_context(server())
        url = stack.enter_context(listening(messages))
        CustomWebhookNotificationBlock(name="tests", url=url, json_data={"told": "{{subject}} {{body}}"}).save("listener")
        client = stack.enter_context(SyncPrefectClient(f"{address}/api"))
        env = os.environ | {
            "PREFECT_API_URL": f"{address}/api",
            "REFIT_WORKSPACE": str(workspace.root),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        execute(make_workspace("clone", **told), env, "flows.cli", "deploy", "--file", str(REPO / "deployments" / "prefect.yaml"))
        deployment = client.read_deployment_by_name("retrain/quillmere-support").id
        run = client.create_flow_run_from_deployment(deployment, parameters={"reason": "by hand"}).id

        with worker(workspace, env, tmp_path / "first.log") as lost:
            lost.until(lambda: re.search(r"step [2-9]\d/200 loss", logged(client, run)), "the training")
            (training,) = (os.pidfd_open(number) for number in processes(workspace, b"-m", b"tasks.train"))
            lost.lose()
            killed = time.time()
        ended, _, _ = select.select([training], [], [], 60)
        os.close(training)
        assert ended, "the training went on a minute after its run had died"
        assert client.read_flow_run(run).state_type == "RUNNING", "nobody has told the server"

        with worker(workspace, env, tmp_path / "second.log") as other:
            dead = other.until(lambda: crashes(client, run), "the crash")
            silence = dead[0].timestamp.timestamp() - killed
            assert DEAD_SECONDS - HEARTBEAT_SECONDS <= silence <= DEAD_SECONDS + LATE_SECONDS
            other.until(lambda: client.read_flow_run(run).run_count == 2, "the second start")
            other.until(lambda: client.read_flow_run(run).state_type in TERMINAL_STATES, "the end of the run")
            other.until(lambda: told_of(run), "the message of the end, which is sent after it")
            planned = "select count(*) from flow_run where state_type = 'SCHEDULED' and auto_scheduled and deployment_id = '%s'"
            other.until(lambda: int(database.ask(planned % deployment)), "the clock's runs")
        last: Any = client.read_flow_run(run)
        assert (last.state_type, last.state.name, last.run_count) == ("COMPLETED", "Published", 2), logged(client, run)
        assert "resumed from checkpoint-" in logged(client, run)
        assert len(crashes(client, run)) == 1
        assert len(told_of(run)) == 1, "of its end, and none of the crash after which it went on"
        assert told_of(run)[0].startswith("quillmere-support: Published")
        told_of_crashes = [message["told"] for message in messages if ": Crashed " in message["told"]]
        crashed = {found.name for found in client.read_flow_runs() if crashes(client, found.id)}
        names = [text.split()[2].rstrip(":") for text in told_of_crashes]
        assert len(names) == len(set(names)), "one message each"
        assert set(names) <= crashed - {last.name}, "and no other"


def crashes(client: Any, run: UUID) -> list[Any]:
    return [state for state in client.read_flow_run_states(run) if state.type == "CRASHED"]
