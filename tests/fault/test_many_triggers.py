"""Fifty triggers at once, by the clock, by hand and by new data: one training, none lost, none left."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.local_registry import LocalRegistry
from tasks.records import ValidationReport
from tests.conftest import MakeWorkspace
from tests.serving import Service

BY_HAND, CHANGES = 5, 44


def test_fifty_triggers_train_once(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    workspace = make_workspace()
    raw = workspace.data / "raw"
    rows = (raw / "orders.jsonl").read_text().splitlines()
    (raw / "orders.jsonl").write_text("\n".join(rows[:-CHANGES]) + "\n")
    with Service(workspace, tmp_path / "prefect", "--cron", "* * * * *", "--quiet-seconds", "1") as service:
        service.until(lambda: service.runs(), "the first run, of data that nobody has seen")

        def start(number: int) -> Any:
            with service.client() as client:
                deployment = client.read_deployment_by_name("retrain/quillmere-support")
                return client.create_flow_run_from_deployment(deployment.id, parameters={"reason": f"by hand {number}"}).id

        with ThreadPoolExecutor(8) as many:
            by_hand = many.map(start, range(BY_HAND))
            for number, row in enumerate(rows[-CHANGES:]):
                (raw / f"{number}.jsonl").write_text(row + "\n")
            started = list(by_hand)
        ended = [service.ended(run) for run in started]
        assert [run.state.type.value for run in ended] == ["COMPLETED"] * BY_HAND, service.log()
        by_clock = service.started_because("schedule ")
        assert by_clock.state.type.value == "COMPLETED"
        new_data = [run for run in service.runs() if str(run.parameters.get("reason", "")).startswith("new data")]
        assert len(new_data) <= 2, "one for the data of the beginning, at most one for all changes together"
        names = [service.ended(run.id).state.name for run in service.runs() if run.start_time]
        assert set(names) == {"Published", "Unchanged"}
        assert ValidationReport.read(workspace.record("validate")).n_raw == rows_of(raw), "what came last was trained on"
        versions = LocalRegistry(workspace.data / "registry").versions()
        assert len(versions) == names.count("Published") <= 2, "one version for each version of the data"
    log = service.log()
    assert log.count("step 6/6 loss") == len(versions), "no training for the same data twice"


def rows_of(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl"))
