"""Records as artifacts of the dashboard, and the named states that a run ends in."""

import base64
from functools import singledispatch
from pathlib import Path
from typing import Any

from prefect import State
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.states import Completed

from flows.pages import page_url
from tasks.decision_text import markdown
from tasks.evaluation_records import EvalReport, GateDecision, ReportPage
from tasks.paths import Workspace
from tasks.pictures import curves_svg, read_curve
from tasks.records import DriftReport, PreparedDataset, PushReceipt, Record, TrainedModel, ValidationReport

_STATE_NAMES = {"FAIL": "Rejected", "INCONCLUSIVE": "Inconclusive"}


def final_state(decision: GateDecision, receipt: PushReceipt | None) -> State[Any]:
    """The named state of a run: a refused candidate is a result, so every one of them is Completed."""
    if receipt is None:
        return Completed(name=_STATE_NAMES[decision.verdict], message="; ".join(decision.reasons()))
    if receipt.pull_request is not None:
        return Completed(name="AwaitingApproval", message=receipt.summary())
    if receipt.published:
        return Completed(name="Published", message=receipt.summary())
    return Completed(name="Unchanged", message=receipt.summary())


def image_url(svg: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def report_parameters(workspace: Workspace, reason: str) -> None:
    """Show the values that this run really uses, and why it was started."""
    values = workspace.params.read_text(encoding="utf-8")
    create_markdown_artifact(key="parameters", markdown=f"```yaml\n{values}\n```", description=reason or None)


def report(stage: str, record: Record, workspace: Workspace) -> None:
    """Publish the artifacts of a stage: one line for any, a table or picture where there is more to see."""
    key = stage.replace("@", "-")
    create_markdown_artifact(key=key, markdown=record.summary(), description=f"Result of {stage}")
    _details(record, key, workspace)


def _link(key: str, page: Path, text: str, workspace: Workspace) -> None:
    """To a page of the last run; it may be another one's by the time somebody looks. A run's page shows the description alone."""
    if address := page_url(workspace, page):
        create_link_artifact(key=key, link=address, link_text=text, description=f"[{text}]({address})")


@singledispatch
def _details(record: Record, key: str, workspace: Workspace) -> None:
    """Nothing more for most records."""


@_details.register
def _(record: ValidationReport, key: str, workspace: Workspace) -> None:
    reasons = [{"reason": reason, "rows": count} for reason, count in sorted(record.reasons.items(), key=lambda item: -item[1])]
    create_table_artifact(
        key="quarantine", table=reasons, description=f"Quarantined rows: {workspace.relative(workspace.quarantine)}"
    )
    rows = [result.model_dump(mode="json") for result in record.expectations]
    create_table_artifact(key="expectations", table=rows, description=f"Data Docs: {workspace.relative(workspace.data_docs)}")
    _link("data-docs", workspace.data_docs / "index.html", "Data Docs of the last run", workspace)


@_details.register
def _(record: DriftReport, key: str, workspace: Workspace) -> None:
    rows = [feature.model_dump(mode="json") for feature in record.features]
    create_table_artifact(
        key="drift-features", table=rows, description=f"The data against those of {record.reference or 'no version yet'}"
    )


@_details.register
def _(record: PreparedDataset, key: str, workspace: Workspace) -> None:
    rows = [{"split": name, **split.model_dump(mode="json")} for name, split in record.splits.items()]
    create_table_artifact(key="splits", table=rows, description="Rows and tokens of each split")


@_details.register
def _(record: TrainedModel, key: str, workspace: Workspace) -> None:
    curves = {"train loss": read_curve(workspace.plots / "train.csv"), "eval loss": read_curve(workspace.plots / "eval.csv")}
    create_image_artifact(key="loss", image_url=image_url(curves_svg(curves, "step")), description="Loss by optimizer step")


@_details.register
def _(record: EvalReport, key: str, workspace: Workspace) -> None:
    rows = [metric.model_dump(mode="json") for metric in record.metrics]
    create_table_artifact(key=f"scores-{record.role}", table=rows, description=f"Scores of the {record.role} model")


@_details.register
def _(record: ReportPage, key: str, workspace: Workspace) -> None:
    _link("report-page", workspace.report, "Report of the last run", workspace)


@_details.register
def _(record: GateDecision, key: str, workspace: Workspace) -> None:
    create_markdown_artifact(key="decision", markdown=markdown(record), description=f"The gate's decision: {record.verdict}")
