"""One run: from the raw data to a published version, or to the reason why nothing was published."""

from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger

from flows import stages
from flows.reporting import final_state, report_parameters
from tasks.overrides import override
from tasks.paths import ROLES, Workspace


@flow(name="retrain", description=__doc__)
def retrain(workspace: str = ".", settings: list[str] | None = None) -> State[Any]:
    """Validate, prepare, train, evaluate, decide, and publish only what the gate passed.

    Args:
        workspace: folder with params.yaml, dvc.yaml and data/.
        settings: `section.key=value` lines that are written into params.yaml before the run.

    Ends Completed with the name Published, Rejected, Inconclusive or Unchanged; Failed is for what a person must mend.
    """
    place = Workspace.find(Path(workspace))
    for change in override(place.params, settings or []):
        get_run_logger().info("params.yaml: %s", change)
    report_parameters(place)

    stages.base(place)
    stages.validate(place)
    stages.drift(place)
    stages.prepare(place)
    stages.train(place)
    stages.champion(place)
    for role in ROLES:
        stages.evaluate[role](place)
    decision = stages.gate(place)
    receipt = stages.push(place) if decision.verdict == "PASS" else None
    return final_state(decision, receipt)
