"""Everything on one machine: server, schedule, dashboard, watch of the data, and the runs themselves, in one command."""

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
)
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.states import AwaitingRetry, Cancelled
from prefect.types import DateTime
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.promote import promote
from flows.retrain import retrain
from flows.server import server
from flows.watch import EVENT, resource, start_watch, tell
from tasks.data_watch import DataWatch
from tasks.errors import ParamsError
from tasks.params import load_params
from tasks.paths import Workspace

PORT = 4200
_LOOK_SECONDS = 3  # longer than a new automation takes to listen
_POLL_SECONDS = 2
_AT_ONCE = 5  # flow runs; of `retrain` one, the others wait for it
_LOG = logging.getLogger("prefect.refit")
_ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


def serve(workspace: Workspace, cron: str | None, timezone: str, quiet_seconds: float, min_new_rows: int) -> None:
    """Serve until a signal ends it.

    Args:
        workspace: Whose model is retrained.
        cron: When, for example `0 3 * * *`; None: only by hand and by new data.
        timezone: Of the cron line, for example `Europe/Berlin`.
        quiet_seconds: Without a change of the data, before a new version of them starts a run.
        min_new_rows: A version with fewer rows more waits for others.

    Raises:
        PipelineError: the server did not come up.
        ParamsError: params.yaml, the cron line or the time zone has faults.
    """
    name = load_params(workspace.params).push.name
    _check(cron, timezone)
    os.chdir(workspace.root)  # where the runs will be
    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            address = stack.enter_context(server(int(os.environ.get("PREFECT_SERVER_API_PORT", PORT))))
            print(f"dashboard: {address}", flush=True)
            with get_client(sync_client=True) as client:
                _pick_up(client, name)
        stack.enter_context(temporary_settings({PREFECT_RUNNER_POLL_FREQUENCY: _POLL_SECONDS}))
        logging.getLogger("prefect.runner.state_proposer").setLevel(logging.WARNING)  # else a line at each look while a run waits
        runner = Runner(limit=_AT_ONCE, pause_on_shutdown=False)
        for deployment in deployments(name, cron, timezone):
            runner.add_deployment(deployment)
        # After that: nobody would listen to the event before.
        stack.enter_context(_watching(start_watch(workspace, quiet_seconds, min_new_rows), name))
        with suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(runner.start())


def _check(cron: str | None, timezone: str) -> None:
    try:
        CronSchedule(cron=cron or "0 0 * * *", timezone=timezone)
    except ValidationError as error:
        raise ParamsError(
            f"--cron {cron!r} --timezone {timezone!r}: {error.errors()[0]['msg']}; wanted five fields such as '0 3 * * *' "
            "and a name such as Europe/Berlin"
        ) from None


def deployments(name: str, cron: str | None, timezone: str) -> list[Any]:
    """One of `retrain` for all ways in, since Prefect counts concurrent runs by deployment, and one of `promote`.

    They are named like the model, so that several may share a server.
    """
    trigger = DeploymentEventTrigger(
        name=f"retrain {name} when data change",
        expect={EVENT},
        match={"prefect.resource.id": resource(name)},
        parameters={"reason": "new data: {{ event.payload.summary }}"},
    )
    return [
        retrain.to_deployment(
            name,
            schedules=[Cron(cron, timezone=timezone, slug="schedule", parameters={"reason": f"schedule {cron}"})] if cron else [],
            triggers=[trigger],
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        promote.to_deployment(name, entrypoint_type=EntrypointType.MODULE_PATH),
    ]


def _pick_up(client: SyncPrefectClient, name: str) -> None:
    """What a server before this one left: its runs are dead, and of those missed since one is enough.

    A run that was under way starts again, and its training goes on from its last checkpoint.
    """
    left = _runs(client, name, _ALIVE)
    for run in left:
        _LOG.warning("%s was under way when the server ended; it starts again", run.name)
        client.set_flow_run_state(run.id, AwaitingRetry(message="the server before this one ended"), force=True)
    now, restarted = DateTime.now("UTC"), {run.id for run in left}
    planned = [run for run in _runs(client, name, [StateType.SCHEDULED]) if run.auto_scheduled and run.id not in restarted]
    missed = sorted((start, run.id) for run in planned if (start := run.expected_start_time or now) < now)
    for _, run_id in missed if left else missed[:-1]:
        client.set_flow_run_state(run_id, Cancelled(message="missed; one run does for all that were"), force=True)


def _runs(client: SyncPrefectClient, name: str, states: list[StateType]) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[retrain.name])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypeFilter(any_=states))),
    )


@contextmanager
def _watching(found: DataWatch, name: str) -> Iterator[None]:
    """Looks at the data every few seconds, on a thread of its own."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(_LOOK_SECONDS):
            try:
                if change := tell(found, name):
                    _LOG.info("new data: %s", change.summary())
            except Exception as error:  # whatever it is, the next look may do better, and nobody else would look
                _LOG.warning("watch: %s: %s", type(error).__name__, error)

    # Prefect keeps in the context which server is meant.
    thread = threading.Thread(target=copy_context().run, args=(look,), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
