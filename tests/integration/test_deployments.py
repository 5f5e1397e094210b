"""deployments/prefect.yaml on a real server, with a worker of a process pool."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.paths import Workspace
from tests.conftest import edit_params
from tests.integration.running import REFIT, Step, execute

REPO = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
DEPLOY = [*REFIT, "deploy", "--file", str(REPO / "deployments" / "prefect.yaml")]
RUN_SECONDS = 240
NAME = "quillmere-support"  # of the model of params.yaml
DEPLOYED = [f"{flow}/{NAME}" for flow in ("retrain", "watch", "promote")]


@pytest.fixture(scope="module")
def deployed(first: Step, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, dict[str, str]]]:
    """A workspace with everything deployed, twice, and a worker that polls often."""
    workspace = Workspace(Path(shutil.copytree(first.left.root, tmp_path_factory.mktemp("deployed") / "workspace")))
    env = {"PREFECT_API_URL": server, "REFIT_WORKSPACE": str(workspace.root), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    for _ in range(2):
        done = execute(workspace, DEPLOY, env=env)
        assert (done.returncode, done.stdout) == (0, f"deployed: {', '.join(DEPLOYED)}\n"), done.stderr
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


def test_everything_is_deployed_once_and_two_models_share_a_server(
    deployed: tuple[Workspace, dict[str, str]], server: str, tmp_path: Path
) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    workspace, env = deployed
    other = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "other", ignore=shutil.ignore_patterns(".dvc", "data"))))
    edit_params(other, {"push.name": "other"})
    done = execute(other, DEPLOY, env=env | {"REFIT_WORKSPACE": str(other.root)})
    assert (done.returncode, done.stdout) == (0, "deployed: retrain/other, watch/other, promote/other\n"), done.stderr
    with SyncPrefectClient(server) as client:
        found = {name: client.read_deployment_by_name(name) for name in (*DEPLOYED, "retrain/other")}
        automations = {automation.name: automation for automation in client.read_automations()}
        assert len(client.read_deployments()) == 2 * len(DEPLOYED)
    (step,) = found["retrain/other"].pull_steps or []
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(other.root)
    (schedule,) = found[DEPLOYED[0]].schedules
    assert schedule.schedule.model_dump(include={"cron", "timezone"}) == {"cron": "0 3 * * *", "timezone": "UTC"}
    assert len(found[DEPLOYED[1]].schedules) == 1
    wanted = ["{}: runs without a sign of life have crashed", "retrain {} when data change"]
    assert sorted(automations) == sorted(each.format(name) for name in (NAME, "other") for each in wanted)
    trigger: Any = automations[f"retrain {NAME} when data change"].trigger
    assert trigger.match.root == {"prefect.resource.id": f"refit.data.{NAME}"}


def test_a_worker_runs_it_in_the_workspace(deployed: tuple[Workspace, dict[str, str]]) -> None:
    workspace, env = deployed
    command = [*PREFECT, "deployment", "run", DEPLOYED[0], "--watch", "--watch-timeout", str(RUN_SECONDS)]
    done = execute(workspace, command, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Flow run finished successfully in 'Unchanged'" in " ".join((done.stdout + done.stderr).split()), (
        done.stdout + done.stderr
    )
