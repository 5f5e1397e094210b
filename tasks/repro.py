"""Ask DVC what changed, and have DVC run one stage in a process group of its own. Knows nothing of Prefect."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.dvc_repo import dvc_repo
from tasks.errors import PipelineError, StageInputError, StageKilled, StageTimeoutError, TransientError
from tasks.evaluation_records import ChampionRecord, EvalReport, GateDecision, ReportPage, SuitesReport
from tasks.paths import ROLES, Workspace
from tasks.process import ERROR_PREFIX, on_parent_death, parse_error
from tasks.records import BaseModelRecord, DriftReport, PreparedDataset, Record, TrainedModel, ValidationReport

STAGES: dict[str, type[Record]] = {
    "suites": SuitesReport,
    "base": BaseModelRecord,
    "validate": ValidationReport,
    "drift": DriftReport,
    "prepare": PreparedDataset,
    "train": TrainedModel,
    "champion": ChampionRecord,
    **{f"evaluate@{role}": EvalReport for role in ROLES},
    "gate": GateDecision,
    "report": ReportPage,
}
"""Every DVC stage in its order, with the type of its record."""

# DVC's advice to a person at a terminal, progress bars, blank lines: of no use in a run's log.
_NOISE = re.compile(
    r"^\s*$|\d+%\||^\s*git add |^To (track the changes with git|enable auto staging), run:$|^\s*dvc config core.autostage true$"
    r"|^Use `dvc push` to send|^Updating lock file 'dvc.lock'$"
)
_GRACE_SECONDS = 10.0
_TAIL_LINES = 200
_MISSING = re.compile(r"^ERROR: failed to reproduce '.*': \[Errno 2\] No such file or directory: '(.+)'$", re.MULTILINE)


def changed_stages(workspace: Workspace, stages: Sequence[str]) -> list[str]:
    """Those of `stages` whose inputs, parameters, command or outputs differ from dvc.lock, in the given order; about 40 ms.

    `drift` and `champion`, which DVC always runs since the registry is not its own, count as changed here only for other reasons;
    whoever calls compares their records with the registry.

    Raises:
        InputError: DVC was never set up here, or cannot read dvc.yaml, dvc.lock or its own settings.
        TransientError: another process holds DVC's lock.
    """
    with dvc_repo(workspace, "tell what changed") as repo:
        status = repo.status(targets=[f"{workspace.root}/dvc.yaml:{stage}" for stage in stages])
    changes = {
        name.rpartition(":")[2]: [item for item in reasons if item != "always changed"] for name, reasons in status.items()
    }
    return [stage for stage in stages if changes.get(stage) or not workspace.record(stage).is_file()]


def reproduce(workspace: Workspace, stage: str, log: Callable[[str], None], timeout: float, force: bool = False) -> None:
    """Run `dvc repro --single-item STAGE`; the lines that it prints go to `log`, without noise.

    With `force` the stage runs even if nothing changed. `timeout` is in seconds.

    Raises:
        PipelineError: the stage's own error, of its own type.
        StageInputError: what dvc.yaml names as a dependency of the stage is not there.
        StageKilled: the stage or `dvc` was ended by a signal.
        StageTimeoutError: it took longer.
        TransientError: another process holds DVC's lock on the stage.
    """
    forced = ["--force"] if force else []
    run_child(workspace, stage, [sys.executable, "-m", "dvc", "repro", "--single-item", *forced, stage], log, timeout)


def run_child(workspace: Workspace, stage: str, command: Sequence[str], log: Callable[[str], None], timeout: float) -> None:
    """Run a command of a stage in the workspace, in its own process group, which never outlives this call or this process.

    Raises:
        PipelineError: as `reproduce`.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    quiet = {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    child = subprocess.Popen(
        command,
        cwd=workspace.root,
        env={**os.environ, **quiet, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_before_exec,
    )
    # When the leader has died, whatever is left of its group still holds the pipe and would keep the loop below waiting.
    reaper = threading.Thread(target=_kill_what_is_left, args=(child,), daemon=True)
    reaper.start()
    expired = threading.Event()
    timer = threading.Timer(timeout, _expire, (child, expired))
    timer.start()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            tail.append(line.rstrip("\n"))
            if not _NOISE.search(tail[-1]):
                log(tail[-1])
    finally:
        timer.cancel()
        _end_group(child)
        reaper.join()
        if child.stdout is not None:
            child.stdout.close()
    if expired.is_set():
        raise StageTimeoutError(
            f"{stage}: took longer than {timeout / 3600:g} hours and was ended; raise timeouts.{stage.partition('@')[0]} if it "
            "only needs more time: the next run goes on where it was"
        )
    if child.returncode:
        raise _failure(stage, child.returncode, list(tail))


def _before_exec() -> None:
    """DVC and its shell ignore SIGTERM and wait for the stage, which does not: it may save what it has before it ends.

    On its parent's death DVC is interrupted, not killed: its locks name its process, and one that nobody reaps counts as alive.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    on_parent_death(signal.SIGINT)


def _expire(child: "subprocess.Popen[str]", expired: threading.Event) -> None:
    if child.poll() is None:
        expired.set()
        _end_group(child)


def _kill_what_is_left(child: subprocess.Popen[str]) -> None:
    child.wait()
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _end_group(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _failure(stage: str, returncode: int, tail: list[str]) -> PipelineError:
    if error := parse_error(tail):
        return error
    text = "\n".join(tail)
    # DVC reports how its command ended; a shell in between turns signal n into 128 + n.
    status = int(found[-1]) if (found := re.findall(r"exited with (-?\d+)", text)) else returncode
    if returncode < 0 or status < 0 or (status > 128 and status - 128 in set(signal.Signals)):
        return StageKilled(f"{stage}: its process was killed (status {status}); out of memory, or ended from outside")
    if "is busy, it is being blocked by" in text or "Unable to acquire lock" in text:
        return TransientError(f"{stage}: another process holds DVC's lock on it; wait for that run to end")
    if missing := _MISSING.search(text):
        return StageInputError(
            f"{stage}: needs {missing[1]}, which is not there; put it back (`dvc pull`, if DVC tracks it), or correct dvc.yaml"
        )
    last = next(
        (line for line in reversed(tail) if line.strip() and not line.startswith(("ERROR: failed to", ERROR_PREFIX))), "no output"
    )
    return PipelineError(f"{stage}: failed with exit code {status} ({last.strip()}); its log above has the traceback")
