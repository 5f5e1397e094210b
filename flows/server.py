"""A Prefect server as a child of this process."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import IO

from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_SERVER_API_AUTH_STRING, temporary_settings

from tasks.errors import NetworkError, PipelineError, one_line
from tasks.process import on_parent_death

_START_SECONDS = 180
"""A server is up in 8 s on an idle machine; 20 s, Prefect's own limit for its temporary one, have been passed on a busy one."""
_POLL_SECONDS = 0.1
_STOP_SECONDS = 10
# A run that waits for another one to end asks for its turn this often; Prefect's default is 30.
_SLOT_WAIT_SECONDS = "5"
_RESTART_SECONDS = 1
# Runs that ended 90 days ago are removed, Prefect's own period.
_DEFAULTS = {"PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs"}
_LOG = logging.getLogger("prefect.refit")


@contextmanager
def server(port: int | None = None) -> Iterator[str]:
    """`prefect server start` on the loopback interface, with its dashboard, as this process's API; ends with the context.

    Prefect's own temporary server outlives a process that is killed; this one has the kernel's parent-death signal. Ended by
    anything else, it is started again: its clients wait for it.

    Args:
        port: Default: any free one.

    Yields:
        The address of the dashboard.

    Raises:
        PipelineError: it did not come up.
    """
    port = port or _free_port()
    address = f"http://127.0.0.1:{port}"
    settings = {
        **_DEFAULTS,
        **os.environ,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": _SLOT_WAIT_SECONDS,
    }
    with tempfile.TemporaryFile() as log:
        child = _Child(settings, log)
        try:
            _wait_until_healthy(child.process, f"{address}/api", log)
            child.keep_alive()
            with temporary_settings({PREFECT_API_URL: f"{address}/api", PREFECT_API_AUTH_STRING: password()}):
                yield address
                APILogHandler().flush()  # the last lines wait to be sent, and would find nobody
        finally:
            child.stop()


def check_server() -> None:
    """Ask the server of PREFECT_API_URL, one that was not started here, whether it is there.

    Raises:
        NetworkError: it does not answer, or refuses.
    """
    from httpx import HTTPError

    try:
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
    except (HTTPError, PrefectHTTPStatusError) as error:
        raise NetworkError(
            f"{PREFECT_API_URL.value()}: no Prefect server answers there, or it refuses ({one_line(error)}); correct "
            "PREFECT_API_URL, and PREFECT_API_AUTH_STRING if it has a password"
        ) from None


def password() -> str | None:
    """USER:PASSWORD of a server's clients: who protects the server here by one means them, too."""
    found: str | None = PREFECT_API_AUTH_STRING.value() or PREFECT_SERVER_API_AUTH_STRING.value()
    return found


class _Child:
    """The server's process, whichever it is now."""

    def __init__(self, settings: Mapping[str, str], log: IO[bytes]) -> None:
        self._settings, self._log = settings, log
        self._stopping = threading.Event()
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "flows.server_process"],
            env=self._settings,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(on_parent_death, signal.SIGKILL),
        )

    def keep_alive(self) -> None:
        """From a thread that lives as long as this process: the parent-death signal is that of the thread that starts a child."""
        threading.Thread(target=self._restart, name="server", daemon=True).start()

    def _restart(self) -> None:
        while True:
            code = self.process.wait()
            if self._stopping.wait(_RESTART_SECONDS):
                return
            _LOG.warning("the Prefect server ended with code %s; it is started again", code)
            self.process = self._start()

    def stop(self) -> None:
        self._stopping.set()
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_healthy(process: "subprocess.Popen[bytes]", api: str, log: IO[bytes]) -> None:
    for _ in range(int(_START_SECONDS / _POLL_SECONDS)):
        try:
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        else:
            break  # else an answer on a port that somebody else has would count
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            continue
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise PipelineError(
        f"no Prefect server came up at {api} within {_START_SECONDS} s (it said: {said[0].strip()}); "
        "run `prefect server start` to see why, or set PREFECT_API_URL to one that runs"
    )
