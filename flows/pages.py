"""The report and the Data Docs of the last run as web pages, so that the dashboard can link to them."""

import base64
import hmac
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tasks.paths import Workspace

PAGES_URL = "REFIT_PAGES_URL"
"""Environment: where the workspace's report and Data Docs can be read, by their paths in it. Links are made only if it is set."""


def page_url(workspace: Workspace, page: Path) -> str | None:
    """Where a page of the workspace can be read, as far as somebody serves it."""
    address = os.environ.get(PAGES_URL)
    return f"{address.rstrip('/')}/{workspace.relative(page)}" if address else None


@contextmanager
def pages(workspace: Workspace, password: str | None) -> Iterator[None]:
    """Serve both on a free port of the loopback interface, and tell the runs, unless the environment names another place.

    Args:
        workspace: Nothing else in it is served.
        password: USER:PASSWORD that a browser must give (HTTP's basic authentication); None: none.
    """
    if PAGES_URL in os.environ:
        yield
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, workspace, password)) as server:
        os.environ[PAGES_URL] = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
        try:
            yield
        finally:
            del os.environ[PAGES_URL]
            server.shutdown()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, workspace: Workspace, password: str | None, *connection: Any) -> None:
        self._workspace = workspace
        self._expected = f"Basic {base64.b64encode(password.encode()).decode()}" if password else None
        super().__init__(*connection, directory=str(workspace.root))

    def send_head(self) -> Any:
        given = self.headers.get("Authorization", "")
        if self._expected and not hmac.compare_digest(given.encode(), self._expected.encode()):
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="refit"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        found = Path(self.translate_path(self.path)).resolve()
        places = (self._workspace.report.resolve(), self._workspace.data_docs.resolve())
        if not found.is_file() or not any(found.is_relative_to(place) for place in places):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def log_message(self, format: str, *arguments: object) -> None:
        """Not in the log of the service."""
