"""Everything on one machine: server, schedule, dashboard, watch of the data, and the runs themselves, in one command."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.pages import pages
from flows.promote import promote
from flows.recovery import HEARTBEAT_SECONDS, drop_missed, ensure_automations, restart, runs_of
from flows.retrain import retrain
from flows.server import check_server, password, server
from flows.watch import EVENT, Watch, resource, watching
from tasks.errors import ParamsError
from tasks.files import write_json
from tasks.params import load_params
from tasks.paths import Workspace

PORT = 4200
_POLL_SECONDS = 2
_AT_ONCE = 5  # flow runs; of `retrain` one, the others wait for it
_LOG = logging.getLogger("prefect.refit")


def serve(
    workspace: Workspace, cron: str | None, timezone: str, collision_strategy: str, quiet_seconds: float, min_new_rows: int
) -> None:
    """Serve until a signal ends it.

    Args:
        workspace: Whose model is retrained.
        cron: When, for example `0 3 * * *`; None: only by hand and by new data.
        timezone: Of the cron line, for example `Europe/Berlin`.
        collision_strategy: Of a run that comes while another one works, in Prefect's words: ENQUEUE or CANCEL_NEW.
        quiet_seconds: Without a change of the data, before a new version of them starts a run.
        min_new_rows: A version with fewer rows more waits for others.

    Raises:
        PipelineError: the server did not come up, or as `check_server`.
        ParamsError: params.yaml, the cron line or the time zone has faults.
    """
    params = load_params(workspace.params)
    name = params.push.name
    _check(cron, timezone)
    os.chdir(workspace.root)  # where the runs will be
    with ExitStack() as stack:
        if not PREFECT_API_URL.value():
            address = stack.enter_context(server(int(os.environ.get("PREFECT_SERVER_API_PORT", PORT))))
            print(f"dashboard: {address}", flush=True)
            with get_client(sync_client=True) as client:
                _pick_up(client, f"{retrain.name}/{name}")
        else:
            check_server()
        stack.enter_context(
            temporary_settings(
                {PREFECT_RUNNER_POLL_FREQUENCY: _POLL_SECONDS, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}
            )
        )
        logging.getLogger("prefect.runner.state_proposer").setLevel(logging.WARNING)  # else a line at each look while a run waits
        runner = Runner(limit=_AT_ONCE, pause_on_shutdown=False)
        registered = [cast("UUID", runner.add_deployment(each)) for each in deployments(name, cron, timezone, collision_strategy)]
        with get_client(sync_client=True) as client:
            if cron is None:
                _forget_schedules(client, registered[0])
            ensure_automations(client, name, registered, params.notify.blocks)
        stack.enter_context(pages(workspace, password()))
        # After that: nobody would listen to the event before.
        stack.enter_context(watching(Watch(workspace, quiet_seconds, min_new_rows), f"{retrain.name}/{name}"))
        stack.enter_context(_announced(workspace, str(PREFECT_API_URL.value())))
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


def deployments(name: str, cron: str | None, timezone: str, collision_strategy: str) -> list[Any]:
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
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy(collision_strategy)),
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
        promote.to_deployment(name, entrypoint_type=EntrypointType.MODULE_PATH),
    ]


def _forget_schedules(client: SyncPrefectClient, deployment: UUID) -> None:
    """Of an earlier start: a deployment that is registered without schedules keeps those that it has."""
    for schedule in client.read_deployment_schedules(deployment):
        client.delete_deployment_schedule(deployment, schedule.id)


def _pick_up(client: SyncPrefectClient, name: str) -> None:
    """What a server before this one left of a deployment: its runs are dead, and of those missed since one is enough.

    A run that was under way starts again, and its training goes on from its last checkpoint.
    """
    try:
        deployment = client.read_deployment_by_name(name).id
    except ObjectNotFound:
        return
    left = runs_of(client, deployment, [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    for run in left:
        _LOG.warning("%s was under way when the server ended; it starts again", run.name)
        restart(client, run, "the server before this one ended")
    drop_missed(client, deployment, keep=0 if left else 1)


@contextmanager
def _announced(place: Workspace, api: str) -> Iterator[None]:
    """Tell other commands in the workspace where the server is."""
    write_json(place.served, {"api": api, "pid": os.getpid()})
    try:
        yield
    finally:
        place.served.unlink(missing_ok=True)
