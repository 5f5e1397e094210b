"""A PostgreSQL of the test's own, on the loopback interface, under a user that is not root since it refuses that one."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import free_port

USER = "postgres"


class Postgres:
    """A cluster with an empty database `prefect`; skips the test where PostgreSQL is not installed. The context ends it."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs or os.geteuid() != 0:
            pytest.skip("needs Debian's PostgreSQL, started by root: `apt-get install postgresql`")
        self._programs = programs[-1].parent
        self._port = free_port()
        self.url = f"postgresql+asyncpg://{USER}@127.0.0.1:{self._port}/prefect"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
        owner = pwd.getpwnam(USER)
        os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "--auth", "trust", "--no-sync", "--pgdata", str(self._folder / "data"))
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run(
            "pg_ctl", "start", "--wait", "--pgdata", str(self._folder / "data"), "--log", str(self._folder / "log"), "-o", options
        )
        self._run("createdb", "--host", "127.0.0.1", "--port", str(self._port), "prefect")
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "stop", "--mode", "immediate", "--pgdata", str(self._folder / "data"))
        shutil.rmtree(self._folder)

    def ask(self, query: str) -> str:
        """What psql answers, without any decoration."""
        return self._run(
            "psql", "--host", "127.0.0.1", "--port", str(self._port), "--no-align", "--tuples-only", "--command", query, "prefect"
        ).strip()

    def _run(self, program: str, *arguments: str) -> str:
        command = ["runuser", "-u", USER, "--", str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout
