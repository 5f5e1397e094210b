"""`refit serve`: the three ways to a run, by its clock, by hand and by new data, on its own server."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from flows.recovery import DEAD_SECONDS
from tasks.paths import Workspace
from tasks.records import TrainedModel, ValidationReport
from tests.conftest import edit_params
from tests.dashboard import Dashboard
from tests.integration.running import REFIT, Step, execute
from tests.postgres import Postgres
from tests.serving import Service, new_rows, processes

pytestmark = pytest.mark.slow

ZONE = "Asia/Seoul"
POLL_SECONDS = 5  # of the cancelling process, between two looks at the server
NAME = "retrain/quillmere-support"


@pytest.fixture(scope="module")
def cron() -> str:
    """A minute that is near enough to wait for and late enough for the service to be up; once a day."""
    soon = datetime.now(ZoneInfo(ZONE)) + timedelta(seconds=100)
    return f"{soon.minute} {soon.hour} * * *"


@pytest.fixture(scope="module")
def service(cron: str, first: Step, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """In a workspace whose data were worked on already, and where a person publishes."""
    home = tmp_path_factory.mktemp("served")
    workspace = Workspace(Path(shutil.copytree(first.left.root, home / "workspace")))
    edit_params(workspace, {"push.require_approval": True})
    options = ("--cron", cron, "--timezone", ZONE, "--quiet-seconds", "1")
    with Service(workspace, home / "prefect", *options) as found:
        yield found


def by_hand(service: Service, **parameters: Any) -> Any:
    """The end of a run that was started by hand."""
    return service.ended(service.start_run(**parameters))


def test_one_deployment_has_all_ways_in(service: Service, cron: str) -> None:
    retrain = service.retrain()
    (schedule,) = retrain["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (cron, ZONE)
    assert retrain["global_concurrency_limit"]["limit"] == 1
    automations = {each["trigger"]["posture"]: each for each in service.read("automations")}
    assert automations["Reactive"]["trigger"]["expect"] == ["refit.data.changed"]
    assert automations["Reactive"]["actions"][0]["deployment_id"] == retrain["id"]
    dead = automations["Proactive"]
    assert f"prefect.deployment.{retrain['id']}" in dead["trigger"]["match_related"]["prefect.resource.id"]
    assert (dead["trigger"]["within"], dead["actions"][0]["state"]) == (DEAD_SECONDS, "CRASHED")


def test_the_clock_starts_a_run(service: Service, cron: str) -> None:
    ended = service.started_because(f"schedule {cron}")
    assert (ended.state.type.value, ended.state.name) == ("COMPLETED", "Unchanged")
    assert ended.auto_scheduled
    assert sum(run.auto_scheduled for run in service.runs()) > 1, "the next ones are planned"


def test_status_tells_the_last_runs_and_the_next_one(service: Service, cron: str) -> None:
    """It finds the server of the service in its workspace."""
    done = execute(service.workspace, [*REFIT, "status", "--json"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["server"]
    assert told["api"] == service.api
    assert (told["runs"][0]["state"], told["runs"][0]["reason"]) == ("Unchanged", f"schedule {cron}")
    minute, hour = map(int, cron.split()[:2])
    following = datetime.fromisoformat(told["next"]).astimezone(ZoneInfo(ZONE))
    assert (following.hour, following.minute) == (hour, minute)
    assert following > datetime.now(ZoneInfo(ZONE))


def test_the_dashboards_form_has_its_fields_and_refuses_wrong_values(service: Service) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    retrain = service.retrain()
    fields = retrain["parameter_openapi_schema"]["properties"]
    assert all(field.get("description") for field in fields.values()), fields
    assert "gate" in json.dumps(fields["force"])
    with service.client() as client:
        deployment = client.read_deployment_by_name(NAME)
        for wrong in ({"max_steps": -2}, {"learning_rate": 0}, {"force": "publish"}):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                client.create_flow_run_from_deployment(deployment.id, parameters=wrong)


def test_a_run_by_hand_can_force_a_stage_and_publish_nothing(service: Service) -> None:
    """Of two that come at once the second waits for its turn."""
    gate = service.workspace.record("gate")
    before = gate.stat().st_mtime_ns
    runs = [service.start_run(force="gate", dry_run=True, settings=["gate.confidence=0.9"]) for _ in range(2)]
    ended = sorted((service.ended(run) for run in runs), key=lambda run: run.start_time)
    for run in ended:
        assert (run.state.type.value, run.state.name) == ("COMPLETED", "Unchanged"), "the candidate is the champion already"
    assert gate.stat().st_mtime_ns > before
    assert ended[0].end_time <= ended[1].start_time


def test_a_fault_in_a_setting_fails_the_run_and_changes_nothing(service: Service) -> None:
    before = service.workspace.params.read_text()
    ended = by_hand(service, settings=["train.seed=x"])
    assert ended.state.type.value == "FAILED"
    assert "train.seed" in ended.state.message
    assert service.workspace.params.read_text() == before


def test_new_data_start_one_run_and_a_person_publishes(service: Service) -> None:
    """Data that come while it trains are for a further run."""

    def add_rows(seed: int) -> None:
        for line in new_rows(service.workspace, seed).splitlines(keepends=True):
            with (service.workspace.data / "raw" / "orders.jsonl").open("a") as rows_there:
                rows_there.write(line)

    def n_raw() -> int:
        return ValidationReport.read(service.workspace.record("validate")).n_raw

    began, rows = time.time(), n_raw()
    add_rows(0)
    service.until(lambda: processes(service.workspace, b"-m", b"tasks.train"), "the training")
    assert n_raw() == rows + 5
    add_rows(1)
    first = service.started_because("new data: ", began)
    ended = service.started_because("new data: ", first.created.timestamp())
    assert n_raw() == rows + 10
    for run in (first, ended):
        assert (run.state.type.value, run.state.name) == ("COMPLETED", "AwaitingApproval"), service.log()
    assert first.end_time <= ended.start_time
    assert sum(str(run.parameters.get("reason", "")).startswith("new data: ") for run in service.runs()) == 2

    digest = ended.state.message.split()[1]
    assert digest not in first.state.message, "it was trained on other data"
    refused = execute(service.workspace, [*REFIT, "approve", "0" * 12, "--reason", "x"])
    assert refused.returncode != 0
    assert f"the one that waits is {digest}" in refused.stderr
    done = execute(service.workspace, [*REFIT, "approve", digest, "--reason", "seen by me"])
    assert (done.returncode, done.stdout[:10]) == (0, "Published:"), done.stdout + done.stderr
    assert "dashboard of this run" not in done.stderr, "it is on the server of the service"
    moves = (service.workspace.data / "registry" / "history.jsonl").read_text().splitlines()
    assert json.loads(moves[-1])["reason"] == "seen by me"


def test_a_person_runs_watches_and_approves_in_the_browser(service: Service) -> None:
    """The form with a value that it refuses, the run's page while it goes on, its artifacts, then the form of `promote`."""
    steps = TrainedModel.read(service.workspace.record("train")).steps + 1
    with Dashboard(service.api) as dashboard:
        dashboard.form("retrain")
        page = dashboard.page
        page.get_by_label("reason").fill("by hand, in a browser")
        page.get_by_role("tab", name="int").click()
        number = page.locator("input[type=number]")
        number.fill("-2")
        dashboard.submit()
        assert number.evaluate("field => field.validationMessage") == "Value must be greater than or equal to -1."
        number.fill(str(steps))
        run = dashboard.submit_and_open()
        dashboard.shows("Logs", f"step {steps}/{steps} loss")
        dashboard.wait_for_state("AwaitingApproval")
        dashboard.shows(
            "Artifacts", "training", f"{steps} of {steps} optimizer steps", "Loss by optimizer step", "Quarantined rows"
        )
        dashboard.shows("Artifacts", "The gate's decision: PASS", "Rows and tokens of each split", "by hand, in a browser")
        dashboard.shows("Parameters", f'"max_steps": {steps}')
        for link, words in (("Report of the last run", "Answers"), ("Data Docs of the last run", "Expectations on the accepted")):
            assert words in dashboard.follow(link)
        ended = service.ended(UUID(run))
        assert (ended.state.type.value, ended.state.name) == ("COMPLETED", "AwaitingApproval")
        assert TrainedModel.read(service.workspace.record("train")).steps == steps

        dashboard.form("promote")
        page.get_by_label("candidate").fill(ended.state.message.split()[1])
        page.get_by_label("reason").fill("seen in a browser")
        dashboard.submit_and_open()
        dashboard.wait_for_state("Published")
    moves = (service.workspace.data / "registry" / "history.jsonl").read_text().splitlines()
    assert json.loads(moves[-1])["reason"] == "seen in a browser"


def test_a_cancelled_training_ends_soon_and_the_next_run_goes_on_with_it(service: Service) -> None:
    settings = ["train.max_steps=300", "train.eval_steps=299"]
    with Dashboard(service.api) as dashboard:
        run = service.start_run(settings=settings, dry_run=True, reason="to be cancelled")
        service.until(lambda: "/300 loss" in service.log(), "the training")
        dashboard.cancel(str(run))
        asked = time.monotonic()
        service.until(lambda: not processes(service.workspace, b"tasks.train"), "the end of the training")
        assert time.monotonic() - asked < 10 + POLL_SECONDS
    assert service.ended(run).state.type.value == "CANCELLED"
    (saved,) = service.workspace.checkpoints.glob("*/checkpoint-*/COMPLETE")
    assert not service.workspace.record("train").exists()
    ended = by_hand(service, dry_run=True)
    assert (ended.state.type.value, ended.state.name) == ("COMPLETED", "NotPublished"), service.log()
    assert f"resumed from {saved.parent.name}" in service.log()


def test_on_postgresql_with_a_password_by_one_setting_each(first: Step, tmp_path: Path) -> None:
    """Started twice: the second finds what the first registered. Also metrics, and what befalls a run that comes too early."""
    workspace = Workspace(Path(shutil.copytree(first.left.root, tmp_path / "workspace")))
    with Postgres() as database:
        env = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_SERVER_API_AUTH_STRING": "somebody:secret",
            "PREFECT_SERVER_METRICS_ENABLED": "true",
        }
        options = ("--cron", "0 0 1 1 *", "--collision-strategy", "CANCEL_NEW")
        with Service(workspace, tmp_path / "prefect", *options, env=env) as service:
            with pytest.raises(HTTPError, match="401"):
                urlopen(f"{service.api}/metrics")
            assert b"# TYPE process_resident_memory_bytes gauge" in service.ask("metrics")
            assert service.retrain()["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
            both = [service.ended(run).state.name for run in [service.start_run(), service.start_run()]]
            assert sorted(both) == ["Cancelled", "Unchanged"], "of two at once the new one is cancelled"
            ended = next(run for run in service.runs() if run.state.name == "Unchanged")
            service.stop()
            service.start()
            assert service.ended(ended.id).state.name == "Unchanged"
            assert len(service.read("automations")) == 2
            planned = "select count(*) from flow_run where state_type = 'SCHEDULED' and auto_scheduled"
            service.until(lambda: int(database.ask(planned)), "the clock's runs")
        assert database.ask("select name from flow_run where state_type = 'COMPLETED'") == ended.name
        assert database.ask("select count(*) from deployment") == "2"
    assert not list((tmp_path / "prefect").glob("prefect.db*"))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--cron", "often"), "five fields such as"),
        (("--timezone", "Mars/Olympus"), "a name such as Europe/Berlin"),
    ],
)
def test_a_wrong_schedule_is_one_line(first: Step, options: tuple[str, str], wanted: str) -> None:
    done = execute(first.left, [*REFIT, "serve", *options])
    assert done.returncode == 2
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
