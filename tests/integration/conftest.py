"""One Prefect server and one whole run of the pipeline for all tests of this tier."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tasks.paths import Workspace
from tests.conftest import build_workspace, free_port
from tests.integration.running import REFIT, Step, add_defects, execute, take
from tests.serving import answers, until

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "OMP_NUM_THREADS": "1",  # the tiny model is too small for more: waiting for each other, threads take twice the time
}
SERVER_SECONDS = 120


@pytest.fixture(scope="session", autouse=True)
def _away_from_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prefect and DVC keep what they remember under tmp, for this process and its children; the latter take one core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.delenv("PREFECT_API_URL", raising=False)
        yield


@dataclass(frozen=True)
class _Server:
    process: "subprocess.Popen[bytes]"
    api: str
    log: Path


@pytest.fixture(scope="session")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    """A Prefect server as `refit serve` starts it, on its way."""
    port = free_port()
    home = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch, (home / "log").open("w") as log:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_API_HOST", "127.0.0.1")
        patch.setenv("PREFECT_SERVER_API_PORT", str(port))
        process = subprocess.Popen([sys.executable, "-m", "flows.server_process"], stdout=log, stderr=subprocess.STDOUT)
    yield _Server(process, f"http://127.0.0.1:{port}/api", home / "log")
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def server(starting: _Server) -> str:
    """The address of its API, which answers."""
    until(starting.process, starting.log, partial(answers, starting.api), "a Prefect server", SERVER_SECONDS)
    return starting.api


@pytest.fixture(scope="session")
def live(starting: _Server, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace of the first run, made while the server starts. Only test_flow.py changes it; others copy `first.left`."""
    return add_defects(build_workspace(tmp_path_factory.mktemp("live") / "workspace", tiny_base))


@pytest.fixture(scope="session")
def reproducing(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Future[Workspace] | None]":
    """`dvc repro` in a workspace of its own, beside the first run, if a test of this session asks for it."""

    def reproduce() -> Workspace:
        workspace = add_defects(build_workspace(tmp_path_factory.mktemp("repro") / "workspace", tiny_base))
        done = execute(workspace, [sys.executable, "-m", "dvc", "repro"])
        assert done.returncode == 0, done.stdout + done.stderr
        return workspace

    if not any("reproduced" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    with ThreadPoolExecutor(1) as one:
        yield one.submit(reproduce)


@pytest.fixture(scope="session")
def reproduced(reproducing: "Future[Workspace]") -> Workspace:
    """A workspace after `dvc repro`."""
    return reproducing.result()


@pytest.fixture(scope="session")
def first(reproducing: object, live: Workspace, server: str, tmp_path_factory: pytest.TempPathFactory) -> Step:
    """`refit run` in the fresh workspace."""
    copy = tmp_path_factory.mktemp("first") / "workspace"
    return take(live, [*REFIT, "run", "--json"], copy, env={"PREFECT_API_URL": server})
