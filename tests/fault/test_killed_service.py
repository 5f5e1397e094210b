"""SIGKILL to `refit serve` in the middle of a training: nothing lives on, and the next one finishes the run."""

import os
import re
import select
import signal
from pathlib import Path

import pytest

from tasks.files import tree_digest
from tasks.local_registry import LocalRegistry
from tests.conftest import MakeWorkspace
from tests.serving import Service, processes

pytestmark = pytest.mark.slow


def test_a_run_of_a_killed_service_goes_on_where_it_was(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    workspace = make_workspace(**{"train.max_steps": 150, "train.eval_steps": 10})
    service = Service(workspace, tmp_path / "prefect", "--cron", "0 0 1 1 *", "--quiet-seconds", "0")
    service.start()
    try:
        service.until(lambda: re.search(r"step 1\d/150 loss", service.log()), "a training, since the data are new")
        (run,) = [run for run in service.runs() if not run.auto_scheduled]
        (training,) = processes(workspace, b"-m", b"tasks.train")
        (server,) = processes(workspace, b"-m", b"flows.server_process")
        children = [os.pidfd_open(number) for number in (training, server)]
        service.process.kill()
        service.process.wait()
        for child in children:
            ended, _, _ = select.select([child], [], [], 60)
            os.close(child)
            assert ended, "a child went on a minute after its service had died"

        service.start()
        ended = service.ended(run.id)
        assert (ended.state.type.value, ended.state.name, ended.run_count) == ("COMPLETED", "Published", 2), service.log()
        assert "resumed from checkpoint-" in service.log()
        assert len([found for found in service.runs() if not found.auto_scheduled]) == 1, "the same data count once"
        assert len(service.read("deployments")) == 2
        assert len(service.read("automations")) == 2
        assert len(service.retrain()["schedules"]) == 1
        champion = LocalRegistry(workspace.data / "registry").champion()
        assert champion is not None
        assert champion.digest == tree_digest(workspace.candidate)
    finally:
        service.stop()


def test_a_server_and_a_run_that_are_killed_come_back(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    """While the service lives: it starts its server again, which the run waits for, and then the run, whose process died."""
    workspace = make_workspace(**{"train.max_steps": 700, "train.eval_steps": 50, "train.learning_rate": 0.001})
    with Service(workspace, tmp_path / "prefect", "--cron", "none", "--quiet-seconds", "0") as service:
        service.until(lambda: re.search(r"step \d\d/700 loss", service.log()), "a training, since the data are new")
        (server,) = processes(workspace, b"-m", b"flows.server_process")
        os.kill(server, signal.SIGKILL)
        service.until(lambda: service.read("deployments"), "another server")
        (again,) = processes(workspace, b"-m", b"flows.server_process")
        assert again != server
        (run,) = service.runs()
        assert run.state.type.value == "RUNNING", "it waited for its server"

        (process,) = processes(workspace, b"-m", b"prefect.engine")
        os.kill(process, signal.SIGKILL)
        service.until(lambda: service.runs()[0].run_count == 2, "the second start")
        ended = service.ended(run.id)
        assert (ended.state.type.value, ended.state.name, ended.run_count) == ("COMPLETED", "Published", 2), service.log()
        assert f"{run.name} had crashed; it starts again" in service.log()
        assert "resumed from checkpoint-" in service.log()
        with service.client() as client:
            states = [state.name for state in client.read_flow_run_states(run.id)]
        assert states.count("Crashed") == 1
