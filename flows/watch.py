"""Raw data that changed -> the event `refit.data.changed`, once a version; deployments of `retrain` start a run for it."""

import time
import uuid
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter
from prefect.states import Completed
from pydantic import Field

from tasks.data_watch import Change, DataWatch, watch_of
from tasks.errors import TransientError
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.repro import changed_stages

EVENT = "refit.data.changed"
_ARRIVAL_SECONDS = 20


@flow(name="watch", description=__doc__)
def watch(
    quiet_seconds: Annotated[float, Field(ge=0)] = 30,
    min_new_rows: Annotated[int, Field(ge=0)] = 0,
    workspace: str = ".",
) -> State[Any]:
    """Look at the raw data once.

    Args:
        quiet_seconds: Without a change, before a version counts; the next look tells it.
        min_new_rows: A version with fewer rows more than the last one waits for others.
        workspace: Folder with params.yaml, dvc.yaml and data/.
    """
    place = Workspace.find(Path(workspace))
    change = tell(start_watch(place, quiet_seconds, min_new_rows), load_params(place.params).push.name)
    return Completed(
        name="Changed" if change else "Unchanged", message=change.summary() if change else "no new version of the data"
    )


def resource(name: str) -> str:
    """The id by which automations know the data of a model."""
    return f"refit.data.{name}"


def start_watch(place: Workspace, quiet_seconds: float, min_new_rows: int) -> DataWatch:
    """The watch of a workspace; data that validate has seen as they are count as known."""
    found = watch_of(place, load_params(place.params).validation.raw, quiet_seconds, min_new_rows)
    if not found.started:
        found.start(known=not changed_stages(place, ["validate"]))
    return found


def tell(found: DataWatch, name: str) -> Change | None:
    """Emit the event of a new version, and forget it only when the server has it.

    Raises:
        TransientError: the server did not take it; the next look tries again with the same id, so that it counts once.
    """
    change = found.look()
    if change is None:
        return None
    event_id = uuid.uuid5(uuid.NAMESPACE_URL, f"refit:{name}:{change.key}")
    payload = {
        "fingerprint": change.fingerprint,
        "rows": change.rows,
        "rows_before": change.rows_before,
        "files": change.files,
        "summary": change.summary(),
    }
    emit_event(event=EVENT, resource={"prefect.resource.id": resource(name)}, payload=payload, id=event_id)
    if not _arrived(event_id):
        raise TransientError(
            f"{EVENT}: the Prefect server did not take it within {_ARRIVAL_SECONDS} s; the next look tries again"
        )
    found.told(change)
    return change


def _arrived(event_id: uuid.UUID) -> bool:
    with get_client(sync_client=True) as client:
        for _ in range(_ARRIVAL_SECONDS * 4):
            if client.read_events(EventFilter(id=EventIDFilter(id=[event_id])), limit=1).events:
                return True
            time.sleep(0.25)
    return False
