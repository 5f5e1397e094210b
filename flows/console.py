"""A flow in this very process, for the command line: on the configured Prefect server, or on one that ends with the run."""

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.server import check_server, password, server
from flows.server_status import api_of
from tasks.errors import PipelineError
from tasks.paths import Workspace


class _OneLineErrors(logging.Filter):
    """Errors that a person can mend are reported in one line; a bug keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info, record.exc_text = None, None
        return True


def run_in_process(load: Callable[[], Any], **parameters: Any) -> tuple[str, str]:
    """Run the flow that `load` gives; returns the name and the message of its final state.

    Where `refit serve` works in the same workspace it is on its server: a second one would write into the same database.

    Raises:
        PipelineError: the stage's own error, if it failed; or there is no server and none could be started.
    """
    with ExitStack() as stack:
        if PREFECT_API_URL.value():
            check_server()
        elif api := api_of(Workspace.find(Path(parameters.get("workspace", ".")))):
            stack.enter_context(temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: password()}))
        else:
            print(f"dashboard of this run: {stack.enter_context(server())}", file=sys.stderr)
        flow = load()
        for handler in (*logging.getLogger().handlers, *logging.getLogger("prefect").handlers):  # the console's is the root's
            handler.addFilter(_OneLineErrors())
        state = flow(**parameters, return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, PipelineError):
            raise error
        raise PipelineError(f"the run ended {state.name}: {state.message}")
    return str(state.name), str(state.message)
