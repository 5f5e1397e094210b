"""Runs that nobody started in time, on a real server."""

from datetime import UTC, datetime, timedelta


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
