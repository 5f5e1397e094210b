"""Runs that nobody started in time and runs whose process died, on a real server."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from tests.serving import until
from tests.webhook import listening


def test_of_runs_that_the_clock_missed_one_is_left(server: str) -> None:
    """The last of them; what a person started and what is still to come stay."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.schedules import CronSchedule

    from flows.recovery import drop_missed, runs_of
    from flows.retrain import retrain

    with SyncPrefectClient(server) as client:
        now = datetime.now(UTC)
        hourly = [DeploymentScheduleCreate(schedule=CronSchedule(cron=f"{(now.minute + 30) % 60} * * * *"))]
        deployment = client.create_deployment(client.create_flow(retrain), "of the clock", schedules=hourly)
        window = {"start_time": (now - timedelta(hours=5)).isoformat(), "end_time": (now + timedelta(hours=5)).isoformat()}
        client._client.post(
            f"/deployments/{deployment}/schedule", json={**window, "min_runs": 10, "max_runs": 10}
        ).raise_for_status()
        by_hand = client.create_flow_run_from_deployment(deployment)

        def waiting() -> list[datetime]:
            found = runs_of(client, deployment, [StateType.SCHEDULED])
            assert by_hand.id in {run.id for run in found}
            return [run.expected_start_time for run in found if run.auto_scheduled and run.expected_start_time]

        missed, later = ([time for time in waiting() if (time < now) is past] for past in (True, False))
        assert len(missed) == len(later) == 5
        drop_missed(client, deployment)
        assert waiting() == [missed[-1], *later]
        drop_missed(client, deployment, keep=0)
        assert waiting() == later


@pytest.mark.slow  # two windows of the server's
def test_a_crash_is_told_unless_the_run_starts_again(starting: Any, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the server saw it by its silence or a worker by the end of its process; once each, with the reason and a link."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events import emit_event
    from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Crashed, Running

    from flows import recovery
    from flows.retrain import retrain

    monkeypatch.setattr(recovery, "DEAD_SECONDS", 10)
    monkeypatch.setattr(recovery, "RESTART_SECONDS", 15)
    messages = list[dict[str, str]]()
    with temporary_settings({PREFECT_API_URL: server}), SyncPrefectClient(server) as client, listening(messages) as url:
        CustomWebhookNotificationBlock(name="crashes", url=url, json_data={"told": "{{subject}} {{body}}"}).save("crashes")
        flow = client.create_flow(retrain)
        killed, silent, *restarted = deployments = [client.create_deployment(flow, f"crash {number}") for number in range(4)]
        recovery.ensure_automations(client, "crashing", deployments, ["custom-webhook/crashes"])
        runs = {each: client.create_flow_run_from_deployment(each, state=Running()) for each in deployments}

        def kill(deployment: UUID) -> None:
            state: Any = Crashed(message="its process was killed")
            client.set_flow_run_state(runs[deployment].id, state, force=True)
            recovery.report_crash(retrain, runs[deployment], state)

        def fall_silent(deployment: UUID) -> None:
            of = {"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}
            run = {"prefect.resource.id": f"prefect.flow-run.{runs[deployment].id}"}
            emit_event("prefect.flow-run.heartbeat", resource=run, related=[of])

        def crashes_known(deployment: UUID) -> bool:
            target = EventAnyResourceFilter(id=[f"prefect.flow-run.{runs[deployment].id}"])
            names = EventNameFilter(name=["refit.run.crashed", "prefect.automation.action.executed"])
            return bool(client.read_events(EventFilter(any_resource=target, event=names), limit=1).events)

        for die, each in zip((kill, fall_silent), restarted, strict=True):
            die(each)
            until(starting.process, starting.log, partial(recovery.restart_crashed, client, each), "the crash")
            until(starting.process, starting.log, partial(crashes_known, each), "the event of the crash")
            recovery.report_start(retrain, runs[each], Running())
        kill(killed)
        fall_silent(silent)
        until(starting.process, starting.log, lambda: len(messages) >= 2, "the messages")

        told = dict(each["told"].split("\nrun: ") for each in messages)
        reasons = {killed: "its process was killed", silent: "no sign of life for 10 s"}
        assert list(told) == [
            f"crashing: Crashed {runs[each].name}: {reason}; nothing has started it again" for each, reason in reasons.items()
        ]
        for each, link in zip(reasons, told.values(), strict=True):
            assert link.endswith(f"/runs/flow-run/{runs[each].id}")
