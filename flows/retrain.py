"""One run: from the raw data to a published version, or to the reason why nothing was published."""

from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows import stages
from flows.notify import notify
from flows.recovery import report_crash, report_start
from flows.reporting import final_state, report_parameters
from flows.settings import Stage, as_settings, end_with_runner
from tasks.errors import StaleChampionError
from tasks.lease import lease
from tasks.overrides import override
from tasks.paths import ROLES, Workspace

_JUDGEMENTS = 3
"""How often a candidate is judged in one run, if each time somebody else publishes before it."""


@flow(
    name="retrain",
    description=__doc__,
    on_running=[report_start],
    on_completion=[notify],
    on_failure=[notify],
    on_crashed=[report_crash],
)
def retrain(
    reason: str = "",
    raw: Annotated[str, Field(min_length=1)] | None = None,
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None,
    max_steps: Annotated[int, Field(ge=-1)] | None = None,
    start_from: Literal["base", "champion"] | None = None,
    settings: list[str] | None = None,
    force: Stage | None = None,
    dry_run: bool = False,
    require_approval: bool | None = None,
    workspace: str = ".",
) -> State[Any]:
    """Validate, prepare, train, evaluate, decide, and publish only what the gate passed.

    Args:
        reason: Why this run; it is shown with its parameters.
        raw: Folder of the raw data, from now on; empty: as in params.yaml.
        learning_rate: Of the training, from now on; empty: as in params.yaml.
        max_steps: Optimizer steps, from now on; -1: train.num_train_epochs decides; empty: as in params.yaml.
        start_from: Train from the base model or go on with the champion, from now on; empty: as in params.yaml.
        settings: Further `section.key=value` lines that are written into params.yaml before the run.
        force: Run this stage even if nothing changed.
        dry_run: Judge, and publish nothing.
        require_approval: A candidate that passes waits for the flow `promote`, from now on; empty: as in params.yaml.
        workspace: Folder with params.yaml, dvc.yaml and data/.

    Ends Completed with the name Published, Rejected, Inconclusive, Unchanged, AwaitingApproval or NotPublished; Failed is for
    what a person must mend.
    """
    end_with_runner()
    place, log = Workspace.find(Path(workspace)), get_run_logger().info
    named = {
        "validate.raw": raw,
        "train.learning_rate": learning_rate,
        "train.max_steps": max_steps,
        "train.start_from": start_from,
        "push.require_approval": require_approval,
    }
    with lease(place, f"the run {flow_run.name}", log):
        for change in override(place.params, [*(settings or []), *as_settings(named)]):
            log("params.yaml: %s", change)
        report_parameters(place, reason)
        state = _run(place, force, dry_run)
        stages.clean(place)
        return state


def _run(place: Workspace, force: str | None, dry_run: bool) -> State[Any]:
    stages.suites(place, force)
    stages.preflight(place)
    stages.base(place, force)
    stages.validate(place, force)
    stages.drift(place, force)
    stages.prepare(place, force)
    stages.train(place, force)
    for judgement in count(1):
        stages.champion(place, force)
        for role in ROLES:
            stages.evaluate[role](place, force)
        decision = stages.gate(place, force)
        stages.page(place, force)
        if decision.verdict != "PASS":
            break
        if held := stages.held(place, decision, dry_run):
            name, why = held
            return Completed(name=name, message=why)
        try:
            receipt = stages.push(place)
        except StaleChampionError as error:
            if judgement == _JUDGEMENTS:
                raise
            get_run_logger().warning("%s\nthe candidate is judged anew, against the new champion", error)
            force = None
            continue
        if receipt.version:
            stages.record(place)
        return final_state(decision, receipt)
    return final_state(decision, None)
