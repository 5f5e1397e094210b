"""What Prefect's server makes of many requests on SQLite: as Prefect starts it, with garbage collected beside the event loop, and
as `refit serve` starts it, with transactions that wait for their turn, too.

.venv/bin/python tests/benchmarks/server_stalls.py [SECONDS]      # default 180, for each of the three

Six clients do at once what runs do: create a run, move it through its states, leave an artifact and log lines, read events. An
automation listens to the states.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import free_port
from tests.serving import answers, until

CLIENTS = 6
STALL_SECONDS = 20.0
SERVICE_UNAVAILABLE = 503  # says Prefect where the database is locked
AUTOMATION = {
    "name": "runs that do not end",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.Running"],
        "expect": ["prefect.flow-run.Completed"],
        "threshold": 1,
        "within": 3600,
    },
    "actions": [{"type": "do-nothing"}],
}
PEERS = {
    "as Prefect starts it": ["-m", "prefect", "server", "start"],
    "with garbage collected beside": ["-c", "from flows import server_process as s; s.take_turns = lambda: None; s.main()"],
    "as refit serve does": ["-m", "flows.server_process"],
}


class Client:
    """Notes the seconds of each of its requests, and how many the server did not take, which Prefect's own client tries again."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.seconds: list[float] = []
        self.refused = 0

    def ask(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(
            f"{self._api}/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            if error.code != SERVICE_UNAVAILABLE:
                raise
            self.refused += 1
            said = b""
        self.seconds.append(time.perf_counter() - began)
        return json.loads(said or b"{}")

    def run(self, flow: str) -> None:
        run = self.ask("flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}}).get("id")
        if run is None:
            return
        for state in ("RUNNING", "COMPLETED"):
            self.ask(f"flow_runs/{run}/set_state", {"state": {"type": state}})
            self.ask("artifacts/", {"key": "stage", "type": "markdown", "data": "text", "flow_run_id": run})
        line = {"name": "tests", "level": 20, "message": "a line", "timestamp": "2026-01-01T00:00:00Z", "flow_run_id": run}
        self.ask("logs/", [line] * 20)
        self.ask("events/filter", {"limit": 50})
        self.ask("flow_runs/filter", {"limit": 50})


def measured(words: list[str], seconds: float, home: Path) -> tuple[list[Client], int]:
    """The clients, and how many events were lost to the automations: the server keeps what it cannot handle as files."""
    port = free_port()
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    place = {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    api = f"http://127.0.0.1:{port}/api"
    with (home / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *words], env={**os.environ, **quiet, **place}, stdout=log, stderr=log)
    try:
        until(server, home / "log", partial(answers, api), "the server")
        clients = [Client(api) for _ in range(CLIENTS)]
        flow = clients[0].ask("flows/", {"name": "measured"})["id"]
        clients[0].ask("automations/", AUTOMATION)
        end = time.monotonic() + seconds

        def work(client: Client) -> None:
            while time.monotonic() < end:
                client.run(flow)

        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return clients, len(list((home / "dlq").glob("*")))
    finally:
        server.terminate()
        server.wait(60)


def main(seconds: float) -> None:
    os.environ.pop("PREFECT_API_URL", None)
    for name, words in PEERS.items():
        with tempfile.TemporaryDirectory() as folder:
            clients, lost = measured(words, seconds, Path(folder))
        taken = [each for client in clients for each in client.seconds]
        refused = sum(client.refused for client in clients)
        stalls = sum(each > STALL_SECONDS for each in taken)
        print(
            f"{name}: {len(taken) - refused} requests answered, {refused} refused, median {median(taken):.3f} s, "
            f"the slowest {max(taken):.0f} s, {stalls} above {STALL_SECONDS:.0f} s, {lost} events lost",
            flush=True,
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 180)
