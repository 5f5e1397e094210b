"""The stages as Prefect tasks: when DVC says that something changed, run the stage in a child process; read its record back.

Only what a retry can cure is tried again: a killed child, a network fault, a lock held by somebody else.
"""

import sys
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

import tasks.preflight
from flows.reporting import report
from flows.status import READ_REGISTRY, stale_stages
from flows.token import hub_token
from flows.training_progress import TrainingProgress
from tasks.errors import TransientError
from tasks.evaluation_records import GateDecision
from tasks.params import Params, load_params
from tasks.paths import ROLES, Workspace
from tasks.records import PushReceipt, Record, VersionRecord
from tasks.refusals import why_refused
from tasks.registry import open_registry
from tasks.repro import STAGES, reproduce, run_child


def is_transient(task: Task[..., Any], task_run: Any, state: State[Any]) -> bool:
    """Prefect's retry condition: a retry may cure it."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


_OPTIONS: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [2, 30],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
}


def _reads_registry(stage: str, params: Params) -> bool:
    return stage in READ_REGISTRY or (stage == "train" and params.train.start_from == "champion")


def _run_stage(workspace: Workspace, stage: str, forced: bool) -> Record:
    logger = get_run_logger()
    params = load_params(workspace.params)
    with hub_token(params.push.registry == "hub" and _reads_registry(stage, params)):
        if not forced and not stale_stages(workspace, params, [stage]):
            logger.info("%s: unchanged", stage)
        else:
            progress = TrainingProgress(logger.info) if stage == "train" else logger.info
            reproduce(workspace, stage, progress, params.timeouts.of(stage), forced)
    record = STAGES[stage].read(workspace.record(stage))
    report(stage, record, workspace)
    return record


def _stage_task(stage: str) -> Any:
    @task(name=stage, task_run_name=stage, **_OPTIONS)
    def run(workspace: Workspace, force: str | None = None) -> Record:
        return _run_stage(workspace, stage, force == stage)

    return run


suites = _stage_task("suites")
base = _stage_task("base")
validate = _stage_task("validate")
drift = _stage_task("drift")
prepare = _stage_task("prepare")
train = _stage_task("train")
champion = _stage_task("champion")
evaluate = {role: _stage_task(f"evaluate@{role}") for role in ROLES}
gate = _stage_task("gate")
page = _stage_task("report")


@task(name="preflight", task_run_name="preflight", **_OPTIONS)
def preflight(workspace: Workspace) -> None:
    """Before any costly work: whatever would stop the run later on."""
    params = load_params(workspace.params)
    with hub_token(params.push.registry == "hub"):
        tasks.preflight.preflight(workspace, params)


@task(name="push", task_run_name="push", **_OPTIONS)
def push(workspace: Workspace, approval: str | None = None, override: bool = False) -> PushReceipt:
    """Publish through `python -m tasks.push`, which checks the decision itself; DVC has no part in it."""
    approved = [*([f"--approve={approval}"] if approval else []), *(["--override"] if override else [])]
    params = load_params(workspace.params)
    command = [sys.executable, "-m", "tasks.push", *approved]
    with hub_token(params.push.registry == "hub"):
        run_child(workspace, "push", command, get_run_logger().info, params.timeouts.of("push"))
    receipt = PushReceipt.read(workspace.record("push"))
    report("push", receipt, workspace)
    return receipt


@task(name="record", task_run_name="record", **_OPTIONS)
def record(workspace: Workspace) -> None:
    """Write the published version down in git and DVC's remote, where params.yaml names them."""
    params = load_params(workspace.params)
    if not params.record.wanted:
        return
    with hub_token(params.record.dataset_repo_id is not None):
        command = [sys.executable, "-m", "tasks.record"]
        run_child(workspace, "record", command, get_run_logger().info, params.timeouts.of("record"))
    report("record", VersionRecord.read(workspace.record("record")), workspace)


def held(workspace: Workspace, decision: GateDecision, dry_run: bool) -> str | None:
    """The state of a run whose candidate is not to be published now; None if it may be, or is what is published already."""
    section = load_params(workspace.params).push
    with hub_token(section.registry == "hub"):
        champion = open_registry(section, workspace).champion()
    if champion is not None and champion.digest == decision.candidate_digest:
        return None
    refused = why_refused(workspace, decision.candidate_digest) is not None
    return "NotPublished" if dry_run or refused else "AwaitingApproval" if section.require_approval else None
