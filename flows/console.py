"""The flow in this very process, for `refit run`: on the configured Prefect server, or on a temporary one."""

import logging

from flows.retrain import retrain
from tasks.errors import PipelineError
from tasks.paths import Workspace


class _OneLineErrors(logging.Filter):
    """Errors that a person can mend are reported in one line; a bug keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info, record.exc_text = None, None
        return True


def run_in_process(workspace: Workspace) -> tuple[str, str]:
    """Run the flow; returns the name and the message of its final state.

    Raises:
        PipelineError: the stage's own error, if it failed.
    """
    for handler in (*logging.getLogger().handlers, *logging.getLogger("prefect").handlers):  # the console's is the root's
        handler.addFilter(_OneLineErrors())
    state = retrain(str(workspace.root), return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, PipelineError):
            raise error
        raise PipelineError(f"the run ended {state.name}: {state.message}")
    return str(state.name), str(state.message)
