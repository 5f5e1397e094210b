"""Publish a candidate that waits for approval. The gate's decision is read again: what it did not pass needs an override."""

from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows import stages
from flows.notify import notify
from flows.reporting import final_state
from tasks.lease import lease
from tasks.paths import Workspace
from tasks.refusals import waiting


@flow(name="promote", description=__doc__, on_completion=[notify], on_failure=[notify], on_crashed=[notify])
def promote(
    candidate: Annotated[str, Field(min_length=8)],
    reason: Annotated[str, Field(min_length=1)],
    override: bool = False,
    workspace: str = ".",
) -> State[Any]:
    """Make the candidate the champion.

    Args:
        candidate: The first characters (8 or more) of its digest, as the run that awaits approval says it.
        reason: Who approves it and why; the registry keeps it.
        override: Publish it though the gate did not pass it; decision, card and history say so.
        workspace: Folder with params.yaml, dvc.yaml and data/.
    """
    place = Workspace.find(Path(workspace))
    with lease(place, f"the run {flow_run.name}", get_run_logger().info):
        decision = waiting(place, candidate)
        receipt = stages.push(place, reason, override)
        if receipt.version:
            stages.record(place)
        return final_state(decision, receipt)
