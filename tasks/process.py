"""What every stage's `main()` shares: one workspace option, one line for an error, and death with the parent."""

import argparse
import ctypes
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tasks import errors
from tasks.errors import PipelineError
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.records import Record

ERROR_PREFIX = "refit: "
_PR_SET_PDEATHSIG = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def die_with_parent() -> None:
    """End this process when its parent ends, or when nobody reads its output any more.

    Two mechanisms, since `dvc repro` and a shell may stand between a stage and the flow that started it: the kernel's
    parent-death signal (Linux, prctl(2)), and a thread that waits for an error on standard output, which a pipe shows at the
    moment its last reader is gone (poll(2), POLLERR).
    """
    on_parent_death(signal.SIGKILL)
    threading.Thread(target=_die_without_reader, daemon=True).start()


def tell(line: str) -> None:
    """Print a line of the log; of several processes on as many devices, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def on_parent_death(number: signal.Signals) -> None:
    """Ask the kernel for a signal when this process's parent ends (prctl(2)); nothing happens where the kernel is not Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def _die_without_reader() -> None:
    poller = select.poll()
    poller.register(sys.__stdout__.fileno() if sys.__stdout__ else 1, 0)
    if any(event & select.POLLERR for _, event in poller.poll()):
        os.kill(os.getpid(), signal.SIGKILL)


def format_error(error: PipelineError) -> str:
    """`refit: DataError: message`, further lines indented by two blanks, so that `parse_error` finds the whole."""
    return f"{ERROR_PREFIX}{type(error).__name__}: " + str(error).replace("\n", "\n  ")


def parse_error(lines: list[str]) -> PipelineError | None:
    """The last error that a child printed with `format_error`, as an exception of its own type; None if there is none."""
    for start in range(len(lines) - 1, -1, -1):
        name, _, message = lines[start].removeprefix(ERROR_PREFIX).partition(": ")
        kind = getattr(errors, name, None)
        if lines[start].startswith(ERROR_PREFIX) and isinstance(kind, type) and issubclass(kind, PipelineError):
            more = []
            for line in lines[start + 1 :]:
                if not line.startswith("  "):
                    break
                more.append(line[2:])
            return kind("\n".join([message, *more]))
    return None


def stage_main(
    description: str | None, work: Callable[[Workspace, Params], Record], parser: argparse.ArgumentParser | None = None
) -> int:
    """Run one stage as a program: find the workspace, read the parameters, call `work`, report.

    The stage runs with the workspace as its current folder. Returns the exit code: 0, or the `exit_code` of the
    PipelineError that was printed in one line; a full disk is reported as one too. Any other exception is a bug and keeps its
    traceback.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = (description or "").split("\n\n")[0]
    parser.add_argument("--workspace", type=Path, help="folder with params.yaml, dvc.yaml and data/ (default: found from here)")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who started DVC made it ignore this, and that is inherited
    arguments = parser.parse_args()
    die_with_parent()
    try:
        workspace = Workspace.find(arguments.workspace)
        os.chdir(workspace.root)
        record = work(workspace, load_params(workspace.params))
    except PipelineError as error:
        print(format_error(error), file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        if (number := _no_room(error)) is None:
            raise
        full = PipelineError(
            f"{workspace.root}: {os.strerror(number)}; make room there and run again, what finished is not done twice"
        )
        print(format_error(full), file=sys.stderr, flush=True)
        return full.exit_code
    print(record.summary(), flush=True)
    return 0


def _no_room(error: BaseException | None) -> int | None:
    """The system's error number, if a full disk, quota or file is behind `error`; Rust libraries only put it into their text."""
    while error is not None:
        for number in _NO_ROOM:
            if (isinstance(error, OSError) and error.errno == number) or f"(os error {number})" in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None
