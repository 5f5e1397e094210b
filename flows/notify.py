"""One message a run, through notification blocks of the Prefect server, of what somebody wants to know or must mend."""

from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.urls import url_for

from flows.pages import page_url
from tasks.errors import PipelineError
from tasks.params import load_params
from tasks.paths import Workspace

_SILENT = ("Unchanged", "NotPublished")


def notify(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's hook at the end of a run. A message that cannot be sent is told in the log and changes nothing else."""
    if state.name in _SILENT:
        return
    log = flow_run_logger(flow_run, flow)
    try:
        workspace = Workspace.find(Path(flow_run.parameters.get("workspace", ".")))
        params = load_params(workspace.params)
    except PipelineError as error:  # the run failed of it, and said so
        log.warning("no message was sent: %s", error)
        return
    subject = f"{params.push.name}: {state.name}"
    page = f"page: {page_url(workspace, workspace.report) or workspace.report}" if state.is_completed() else None
    body = "\n".join(filter(None, [state.message, page, f"run: {url_for(flow_run)}"]))
    for name in params.notify.blocks:
        try:
            Block.load(name, _sync=True).notify(body, subject)  # type: ignore[call-arg,union-attr]
        except Exception as error:  # whatever a service of somebody else does: the run has its result
            log.warning("notify.blocks %s: the message was not sent: %s: %s", name, type(error).__name__, error)
