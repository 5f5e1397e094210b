"""The flow in this very process, for `refit run`: on the configured Prefect server, or on one that ends with the run."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO

from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import PipelineError
from tasks.paths import Workspace
from tasks.process import on_parent_death

_START_SECONDS = 180
"""A server is up in 8 s on an idle machine; 20 s, Prefect's own limit for its temporary one, have been passed on a busy one."""
_POLL_SECONDS = 0.1
_STOP_SECONDS = 10


class _OneLineErrors(logging.Filter):
    """Errors that a person can mend are reported in one line; a bug keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info, record.exc_text = None, None
        return True


def run_in_process(workspace: Workspace) -> tuple[str, str]:
    """Run the flow; returns the name and the message of its final state.

    Raises:
        PipelineError: the stage's own error, if it failed; or there is no server and none could be started.
    """
    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            stack.enter_context(_temporary_server())
        from flows.retrain import retrain

        for handler in (*logging.getLogger().handlers, *logging.getLogger("prefect").handlers):  # the console's is the root's
            handler.addFilter(_OneLineErrors())
        state = retrain(str(workspace.root), return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, PipelineError):
            raise error
        raise PipelineError(f"the run ended {state.name}: {state.message}")
    return str(state.name), str(state.message)


@contextmanager
def _temporary_server() -> Iterator[None]:
    """A Prefect server of this run alone, on a free port of the loopback interface, with its dashboard.

    Prefect's own temporary server outlives a run that is killed; this one has the kernel's parent-death signal.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    settings = {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(on_parent_death, signal.SIGKILL),
        )
        try:
            _wait_until_healthy(server, f"{address}/api", log)
            print(f"dashboard of this run: {address}", file=sys.stderr)
            with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
                yield
        finally:
            server.terminate()
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_healthy(server: "subprocess.Popen[bytes]", api: str, log: IO[bytes]) -> None:
    for _ in range(int(_START_SECONDS / _POLL_SECONDS)):
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        try:
            server.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        break
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise PipelineError(
        f"no Prefect server came up within {_START_SECONDS} s (it said: {said[0].strip()}); "
        "run `prefect server start` to see why, or set PREFECT_API_URL to one that runs"
    )
