"""deployments/prefect.yaml on a real server, with a worker of a process pool."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.paths import Workspace
from tests.integration.running import REFIT, Step, execute

REPO = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
DEPLOY = [*REFIT, "deploy", "--file", str(REPO / "deployments" / "prefect.yaml")]
RUN_SECONDS = 240


@pytest.fixture(scope="module")
def deployed(first: Step, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, dict[str, str]]]:
    """A workspace with everything deployed, twice, and a worker that polls often."""
    workspace = Workspace(Path(shutil.copytree(first.left.root, tmp_path_factory.mktemp("deployed") / "workspace")))
    env = {"PREFECT_API_URL": server, "REFIT_WORKSPACE": str(workspace.root), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    for _ in range(2):
        done = execute(workspace, DEPLOY, env=env)
        assert (done.returncode, done.stdout) == (0, "deployed: retrain/retrain, watch/watch, promote/promote\n"), done.stderr
    worker = subprocess.Popen(
        [*PREFECT, "worker", "start", "--pool", "refit"],
        cwd=workspace.root.parent,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield workspace, env
    os.killpg(worker.pid, signal.SIGKILL)  # how it ends is no matter of ours
    worker.wait()


def test_everything_is_deployed_once(deployed: tuple[Workspace, dict[str, str]], server: str) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(server) as client:
        found = {deployment.name: deployment for deployment in client.read_deployments()}
        automations = [automation.name for automation in client.read_automations()]
    assert set(found) == {"retrain", "watch", "promote"}
    (schedule,) = found["retrain"].schedules
    assert schedule.schedule.model_dump(include={"cron", "timezone"}) == {"cron": "0 3 * * *", "timezone": "UTC"}
    assert len(found["watch"].schedules) == 1
    dead = "quillmere-support: runs without a sign of life have crashed"
    assert sorted(automations) == [dead, "retrain when data change"]


def test_a_worker_runs_it_in_the_workspace(deployed: tuple[Workspace, dict[str, str]]) -> None:
    workspace, env = deployed
    command = [*PREFECT, "deployment", "run", "retrain/retrain", "--watch", "--watch-timeout", str(RUN_SECONDS)]
    done = execute(workspace, command, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Flow run finished successfully in 'Unchanged'" in " ".join((done.stdout + done.stderr).split()), (
        done.stdout + done.stderr
    )
