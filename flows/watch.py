"""Raw data that changed -> the event `refit.data.changed`, once a version; deployments of `retrain` start a run for it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Annotated, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.recovery import drop_missed, restart_crashed
from tasks.data_source import DataSource
from tasks.data_watch import Change, DataWatch, watch_of
from tasks.errors import TransientError, WorkspaceBusyError
from tasks.lease import lease
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.repro import changed_stages

EVENT = "refit.data.changed"
_ARRIVAL_SECONDS = 20
_LOOK_SECONDS = 3  # longer than a new automation takes to listen
_SLOW_LOOK_SECONDS = 60
_LOG = logging.getLogger("prefect.refit")


@flow(name="watch", description=__doc__)
def watch(
    quiet_seconds: Annotated[float, Field(ge=0)] = 30,
    min_new_rows: Annotated[int, Field(ge=0)] = 0,
    deployment: str | None = None,
    workspace: str = ".",
) -> State[Any]:
    """Look at the raw data once, and at the runs that crashed or were missed.

    Args:
        quiet_seconds: Without a change, before a version counts; the next look tells it.
        min_new_rows: A version with fewer rows more than the last one waits for others.
        deployment: Whose last run starts again if its process died; of its runs that the clock missed one is left. Default:
            retrain/NAME, as `refit deploy` names that of the model.
        workspace: Folder with params.yaml, dvc.yaml and data/.
    """
    found = Watch(Workspace.find(Path(workspace)), quiet_seconds, min_new_rows)
    found.look_at_runs(deployment or f"retrain/{found.name}")
    if flow_run.deployment_id:
        with get_client(sync_client=True) as client:
            drop_missed(client, UUID(flow_run.deployment_id), keep=0)  # of this deployment: this look does for all
    found.refresh()
    change = found.look()
    return Completed(
        name="Changed" if change else "Unchanged", message=change.summary() if change else "no new version of the data"
    )


def resource(name: str) -> str:
    """The id by which automations know the data of a model."""
    return f"refit.data.{name}"


class Watch:
    """Of one workspace and the runs of its model. Data that validate has seen as they are count as known.

    A run may name another folder as `validate.raw`, from then on: each look is at the folder that params.yaml names then.
    """

    def __init__(self, place: Workspace, quiet_seconds: float, min_new_rows: int) -> None:
        self._place, self._quiet_seconds, self._min_new_rows = place, quiet_seconds, min_new_rows
        self._raw = ""
        self._follow()

    def _follow(self) -> None:
        params = load_params(self._place.params)
        if self._raw == (raw := params.validation.raw):
            return
        self.name = params.push.name
        self.folder = self._place.root / raw
        self._source = DataSource(self._place, self.folder)
        self._data: DataWatch = watch_of(self._place, raw, self._quiet_seconds, self._min_new_rows)
        if not self._data.started:
            self._data.start(known=not changed_stages(self._place, ["validate"]))
        self._raw = raw

    def refresh(self) -> None:
        """Bring data that DVC keeps up to date, unless a run works, which keeps the data that it began with.

        Raises:
            InputError, TransientError: as `DataSource.refresh`.
        """
        if self._source.kept_by_dvc:
            try:
                with lease(self._place, "watch", None):
                    if self._source.refresh():
                        _LOG.info("%s was brought up to date", self._place.relative(self.folder))
            except WorkspaceBusyError:
                return

    def look(self) -> Change | None:
        """Emit the event of a new version, and forget it only when the server has it.

        Raises:
            TransientError: the server did not take it; the next look tries again with the same id, so that it counts once.
        """
        self._follow()
        change = self._data.look()
        if change is None:
            return None
        event_id = uuid5(NAMESPACE_URL, f"refit:{self.name}:{change.key}")
        payload = {
            "fingerprint": change.fingerprint,
            "rows": change.rows,
            "rows_before": change.rows_before,
            "files": change.files,
            "summary": change.summary(),
        }
        emit_event(event=EVENT, resource={"prefect.resource.id": resource(self.name)}, payload=payload, id=event_id)
        if not _arrived(event_id):
            raise TransientError(
                f"{EVENT}: the Prefect server did not take it within {_ARRIVAL_SECONDS} s; the next look tries again"
            )
        self._data.told(change)
        return change

    def look_at_runs(self, deployment: str) -> None:
        """Have the last run of a deployment start again if its process died, and of those that the clock missed leave one."""
        with get_client(sync_client=True) as client:
            try:
                found = client.read_deployment_by_name(deployment)
            except ObjectNotFound:
                _LOG.warning("watch: the server has no deployment %s; correct the parameter deployment", deployment)
                return
            drop_missed(client, found.id)
            if run := restart_crashed(client, found.id):
                _LOG.warning("%s had crashed; it starts again", run.name)


def _arrived(event_id: UUID) -> bool:
    with get_client(sync_client=True) as client:
        for _ in range(_ARRIVAL_SECONDS * 4):
            if client.read_events(EventFilter(id=EventIDFilter(id=[event_id])), limit=1).events:
                return True
            time.sleep(0.25)
    return False


@contextmanager
def watching(found: Watch, deployment: str) -> Iterator[None]:
    """Looks on a thread of its own: at the data when the file system tells of a change, and every few seconds since not every one
    does; at the source of data that DVC keeps and at crashed runs once a minute.
    """
    stop = threading.Event()

    def look() -> None:
        slowly, said = 0.0, ""
        while not stop.is_set():
            try:
                if time.monotonic() >= slowly:
                    slowly = time.monotonic() + _SLOW_LOOK_SECONDS
                    found.look_at_runs(deployment)
                    found.refresh()
                if change := found.look():
                    _LOG.info("new data: %s", change.summary())
                said = ""
            except Exception as error:  # whatever it is, the next look may do better, and nobody else would look
                if said != (said := f"watch: {type(error).__name__}: {error}"):
                    _LOG.warning(said)
            _wait(found.folder, stop)

    # Prefect keeps in the context which server is meant.
    thread = threading.Thread(target=copy_context().run, args=(look,), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _wait(folder: Path, stop: threading.Event) -> None:
    """Until something changes below the folder, or a few seconds."""
    from watchfiles import watch as changes

    if not folder.is_dir():
        stop.wait(_LOOK_SECONDS)
        return
    next(changes(folder, stop_event=stop, rust_timeout=_LOOK_SECONDS * 1000, yield_on_timeout=True, raise_interrupt=False), None)
