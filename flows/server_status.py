"""What the Prefect server of a workspace knows: its last runs and the next one."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import NetworkError
from tasks.paths import Workspace

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

_RUNS = 5


@dataclass(frozen=True, slots=True)
class Run:
    """A run of `retrain`. Times are ISO 8601."""

    name: str
    state: str
    start: str | None
    reason: str

    def line(self) -> str:
        return f"{self.start or 'not begun':<26} {self.state:<18} {self.name}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """`runs`: the last ones, the newest first; `next`: when the schedule starts one, None without a schedule."""

    api: str
    runs: list[Run]
    next: str | None


def api_of(workspace: Workspace) -> str | None:
    """The server of the environment or of `refit serve` in this workspace; None if there is neither."""
    if api := os.environ.get("PREFECT_API_URL"):
        return api
    with suppress(OSError, ValueError, KeyError):
        served = json.loads(workspace.served.read_text(encoding="utf-8"))
        os.kill(served["pid"], 0)
        return str(served["api"])
    return None


def read_server_status(api: str, name: str) -> ServerStatus:
    """Ask the server for the runs of a model's deployment, that of `refit serve` or of deployments/prefect.yaml.

    Raises:
        NetworkError: it does not answer, or refuses.
    """
    from httpx import HTTPError
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import PrefectHTTPStatusError

    from flows.server import password

    def ask(states: Sequence[StateType], sort: FlowRunSort) -> "list[FlowRun]":
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
            sort=sort,
            limit=_RUNS,
        )

    try:
        with SyncPrefectClient(api, auth_string=password()) as client:
            planned = ask([StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC)
            begun = ask(sorted(set(StateType) - {StateType.SCHEDULED}), FlowRunSort.START_TIME_DESC)
    except (HTTPError, PrefectHTTPStatusError) as error:
        raise NetworkError(f"{api}: the Prefect server does not tell: {type(error).__name__}: {error}") from None
    following = next((run.expected_start_time for run in planned if run.auto_scheduled), None)
    return ServerStatus(
        api=api,
        runs=[_run(run) for run in begun],
        next=following.isoformat(timespec="seconds") if following else None,
    )


def _run(run: "FlowRun") -> Run:
    return Run(
        name=run.name,
        state=run.state_name or "unknown",
        start=run.start_time.isoformat(timespec="seconds") if run.start_time else None,
        reason=str(run.parameters.get("reason") or ""),
    )
