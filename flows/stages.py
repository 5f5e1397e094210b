"""The stages as Prefect tasks: when DVC says that something changed, run the stage in a child process; read its record back.

Only what a retry can cure is tried again: a killed child, a network fault, a lock held by somebody else.
"""

import sys
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

import tasks.preflight
import tasks.retention
from flows.reporting import report
from flows.status import READ_REGISTRY, UNKNOWN_TO_DVC, stale_stages
from flows.token import hub_token
from flows.training_progress import TrainingProgress
from tasks.data_watch import signature
from tasks.errors import PipelineError, TransientError
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


def _asks_hub(stage: str, params: Params) -> bool:
    if stage == "base":
        return params.base.source == "hub"
    if stage == "suites" or stage.startswith("evaluate@"):
        return True  # an eval suite may be a dataset that is private or gated
    reads_registry = stage in READ_REGISTRY or (stage == "train" and params.train.start_from == "champion")
    return reads_registry and params.push.registry == "hub"


def _run_stage(workspace: Workspace, stage: str, forced: bool) -> Record:
    logger = get_run_logger()
    params = load_params(workspace.params)
    with hub_token(_asks_hub(stage, params)):
        changed = forced or bool(stale_stages(workspace, params, [stage]))
    if not changed:
        logger.info("%s: unchanged", stage)
    else:
        if stage == "train":
            with hub_token(params.push.registry == "hub"):
                tasks.preflight.before_training(workspace, params)
        progress = TrainingProgress(logger.info) if stage == "train" else logger.info
        timeout = params.timeouts.of(stage)
        with hub_token(_asks_hub(stage, params)):
            reproduce(workspace, stage, progress, timeout, forced)
            if stage in UNKNOWN_TO_DVC and UNKNOWN_TO_DVC[stage](workspace, params):
                reproduce(workspace, stage, progress, timeout, force=True)
    record = STAGES[stage].read(workspace.record(stage))
    report(stage, record, workspace)
    return record


def _stage_task(stage: str) -> Any:
    @task(name=stage, task_run_name=stage, **_OPTIONS)
    def run(workspace: Workspace, force: str | None = None) -> Record:
        return _run_stage(workspace, stage, force == stage)

    return run


@task(name="validate", task_run_name="validate", **_OPTIONS)
def validate(workspace: Workspace, force: str | None = None) -> Record:
    """DVC notes which data the stage was given after it has read them, so it must have read all of these.

    Raises:
        TransientError: they changed meanwhile; the next try reads them anew.
    """
    raw = workspace.root / load_params(workspace.params).validation.raw
    before = signature(raw)
    record = _run_stage(workspace, "validate", force == "validate")
    if signature(raw) != before:
        workspace.record("validate").unlink()  # without it the stage counts as not done
        raise TransientError(f"{workspace.relative(raw)}: changed while it was read; the next try reads it anew")
    return record


suites = _stage_task("suites")
base = _stage_task("base")
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
    with hub_token("hub" in (params.push.registry, params.base.source)):
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


@task(name="clean", task_run_name="clean", cache_policy=NO_CACHE)
def clean(workspace: Workspace) -> None:
    """Remove what `retention` gives up. The run has its result: what cannot be removed now is, by the next one."""
    log = get_run_logger()
    try:
        for line in tasks.retention.clean(workspace, load_params(workspace.params)):
            log.info("%s", line)
    except PipelineError as error:
        log.warning("%s", error)


@task(name="held", task_run_name="held", **_OPTIONS)
def held(workspace: Workspace, decision: GateDecision, dry_run: bool) -> tuple[str, str] | None:
    """How a run ends whose candidate passed and is not published now, and why; None if it may be, or is published already."""
    section = load_params(workspace.params).push
    digest = decision.candidate_digest
    with hub_token(section.registry == "hub"):
        registry = open_registry(section, workspace)
        champion = registry.champion()
        if champion is not None and champion.digest == digest:
            return None
        taken_back = registry.withdrawn(digest)
    passed = f"candidate {digest[:12]} passed the gate and"
    if why := why_refused(workspace, digest, section) or taken_back:
        return "NotPublished", f"{passed} was refused: {why}"
    if dry_run:
        return "NotPublished", f"{passed} was not published, since this was a dry run"
    if section.require_approval:
        return "AwaitingApproval", f"{passed} waits for `refit approve` or the deployment `promote`"
    return None
