"""Runs whose process died: the server sees them dead by their missing heartbeats, and they start again where they were."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
)
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification, emit_event
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.states import AwaitingRetry, Cancelled
from prefect.types import DateTime
from prefect.utilities.urls import url_for

HEARTBEAT_SECONDS = 30
"""Prefect's shortest; its default is 180."""
DEAD_SECONDS = 150
"""Of silence, before a run counts as dead: four heartbeats may be lost, as when a server is restarted."""
RESTART_SECONDS = 120
"""From a crash to the message of it, if nothing starts the run again: `watch` looks every minute. Shorter than `DEAD_SECONDS`, so
that the next crash of the same run is counted anew."""
_CRASHED, _STARTED = "refit.run.crashed", "refit.run.started"
_CRASHES = 3
"""After so many a run stays as it is: what kills it would kill it again."""
_LOG = logging.getLogger("prefect.refit")


def ensure_automations(client: SyncPrefectClient, name: str, deployments: Sequence[UUID], blocks: Sequence[str]) -> None:
    """Have the server mark the runs of these deployments as crashed once they give no sign of life, and tell `blocks` of those
    that do not start again: the others have a message of their own when they end.

    On SQLite a server other than `refit serve`'s loses the last event of many a run (PrefectHQ/prefect issue 21932). So the
    message waits until a run was really marked, which is refused for one that has ended, or until `report_crash` tells of it.
    """
    marks = _ensure(client, _mark(name, deployments))
    tells = _tell(name, marks, deployments, _block_ids(client, blocks))
    if tells.actions:
        _ensure(client, tells)
    else:
        for found in client.read_automations_by_name(tells.name):
            client.delete_automation(found.id)


def _mark(name: str, deployments: Sequence[UUID]) -> AutomationCore:
    """Any event of a run counts as a sign: a list of the states in which it may end would lack those with names of our own."""
    ids = [f"prefect.deployment.{deployment}" for deployment in deployments]
    return AutomationCore(
        name=f"{name}: runs without a sign of life have crashed",
        description=f"A worker or machine was lost. Heartbeats come every {HEARTBEAT_SECONDS} s.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": ids}),
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=DEAD_SECONDS),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no sign of life for {DEAD_SECONDS} s")],
    )


def _tell(name: str, marks: UUID, deployments: Sequence[UUID], blocks: Sequence[UUID]) -> AutomationCore:
    subject = f"{name}: Crashed"
    run = url_for("flow-run", obj_id="{{ flow_run.id }}")  # the server's own filter for it wants PREFECT_UI_URL
    body = f"{{{{ flow_run.name }}}}: {{{{ flow_run.state.message }}}}; nothing has started it again\nrun: {run}"
    return AutomationCore(
        name=f"{name}: tell of runs that have crashed",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": [f"prefect.automation.{marks}", *map(_resource, deployments)]}),
            for_each={"related:target:prefect.resource.id"},
            after={"prefect.automation.action.executed", _CRASHED},
            expect={_STARTED},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=RESTART_SECONDS),
        ),
        actions=[SendNotification(block_document_id=block, subject=subject, body=body) for block in blocks],
    )


def _ensure(client: SyncPrefectClient, automation: AutomationCore) -> UUID:
    """Make it, or make the one of this name like it."""
    if found := client.read_automations_by_name(automation.name):
        client.update_automation(found[0].id, automation)
        return found[0].id
    return client.create_automation(automation)


def _block_ids(client: SyncPrefectClient, blocks: Sequence[str]) -> list[UUID]:
    found = []
    for block in blocks:
        kind, _, name = block.partition("/")
        try:
            found.append(client.read_block_document_by_name(name, kind).id)
        except ObjectNotFound:
            _LOG.warning("notify.blocks: the server has no block %s; make it in the dashboard, then start this again", block)
    return found


def report_crash(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's hook where a worker sees a run's process die: the server has the message of it, unless the run starts again."""
    _emit(_CRASHED, flow_run)


def report_start(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's hook at each start of a run."""
    _emit(_STARTED, flow_run)


def _emit(event: str, run: FlowRun) -> None:
    """With the run where the server's own event of marking it has it."""
    if run.deployment_id:
        target = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.role": "target"}
        emit_event(event, resource={"prefect.resource.id": _resource(run.deployment_id)}, related=[target])


def _resource(deployment: UUID) -> str:
    return f"refit.runs.{deployment}"


def restart_crashed(client: SyncPrefectClient, deployment: UUID) -> FlowRun | None:
    """Start the last run again if it crashed and nothing came after it: its training goes on from the last checkpoint.

    Returns:
        The run, None if there is nothing to start again.
    """
    last = runs_of(client, deployment, list(TERMINAL_STATES), FlowRunSort.END_TIME_DESC, limit=1)
    if not last or last[0].state_type != StateType.CRASHED or _under_way(client, deployment):
        return None
    run = last[0]
    crashes = sum(state.type == StateType.CRASHED for state in client.read_flow_run_states(run.id))
    if crashes >= _CRASHES:
        return None
    restart(client, run, f"crash {crashes} of {_CRASHES} at most; it goes on where it was")
    return run


def drop_missed(client: SyncPrefectClient, deployment: UUID, keep: int = 1) -> None:
    """Cancel what the clock planned for a time that has passed, but the last `keep`: one run does for all that were missed."""
    now = DateTime.now("UTC")
    planned = [run for run in runs_of(client, deployment, [StateType.SCHEDULED]) if run.auto_scheduled and not run.run_count]
    missed = [run for run in planned if (run.expected_start_time or now) < now]
    for run in missed[: len(missed) - keep]:
        client.set_flow_run_state(run.id, Cancelled(message="missed; one run does for all that were"), force=True)


def restart(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    """Have the same run, with its parameters, start again."""
    client.set_flow_run_state(run.id, AwaitingRetry(message=why), force=True)


def runs_of(
    client: SyncPrefectClient,
    deployment: UUID,
    states: Sequence[StateType],
    sort: FlowRunSort = FlowRunSort.EXPECTED_START_TIME_ASC,
    limit: int | None = None,
) -> list[FlowRun]:
    """Runs of a deployment that are in one of these states."""
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypeFilter(any_=list(states)))),
        sort=sort,
        limit=limit,
    )


def _under_way(client: SyncPrefectClient, deployment: UUID) -> bool:
    """Whether a run works, or waits for its turn."""
    alive = runs_of(client, deployment, [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING], limit=1)
    due = runs_of(client, deployment, [StateType.SCHEDULED], limit=1)
    return bool(alive) or any((run.expected_start_time or DateTime.now("UTC")) <= DateTime.now("UTC") for run in due)
