"""Fifty triggers at once, by the clock, by hand and by new data: one training, none lost, none left."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.local_registry import LocalRegistry
from tests.conftest import MakeWorkspace
from tests.serving import Service

BY_HAND, CHANGES = 20, 30


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
        new_data = [run for run in service.runs() if str(run.parameters.get("reason", "")).startswith("new data")]
        new_data = [service.ended(run.id) for run in new_data]
        assert len(new_data) == 2, "one for the data of the beginning, one for all changes together"
        assert f"{len(rows) + count(raw / 'delivery.jsonl')} rows" in new_data[-1].parameters["reason"]
        by_clock = service.started_because("schedule ")
        assert by_clock.state.type.value == "COMPLETED"
        published = [run for run in service.runs() if run.state.name == "Published"]
        registry = LocalRegistry(workspace.data / "registry")
        assert len(registry.versions()) == len(published) <= 2, "one version of each version of the data"
        assert not [run for run in service.runs() if run.state.type.value in ("RUNNING", "PENDING", "CANCELLING")]
    log = service.log()
    assert log.count("step 6/6 loss") <= 2, "no training for the same data twice"
    shutil.rmtree(workspace.root)


def count(path: Path) -> int:
    return sum(1 for line in path.read_text().splitlines() if json.loads(line))
