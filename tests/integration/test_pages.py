"""Of a workspace's files only report and Data Docs are served, and only to who has the password."""

import base64
import os
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.pages import PAGES_URL, pages
from tasks.paths import Workspace

REPORT, DOCS = "/data/reports/report.html", "/data/validated/data_docs/index.html"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv(PAGES_URL, raising=False)
    found = Workspace(tmp_path / "workspace")
    for path in (found.report, found.data_docs / "index.html", found.root / "params.yaml", found.data / "raw" / "a.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {path.name}")
    return found


def get(path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    connection = HTTPConnection(urlsplit(os.environ[PAGES_URL]).netloc, timeout=10)
    connection.request("GET", path, headers=dict(headers or {}))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_nothing_but_the_two_is_served(workspace: Workspace) -> None:
    (workspace.data_docs / "out").symlink_to(workspace.root / "params.yaml")
    with pages(workspace, None):
        assert get(REPORT) == (200, "this is report.html")
        assert get(f"{DOCS}?x=1") == (200, "this is index.html")
        for path in (
            "/",
            "/params.yaml",
            "/data/raw/a.jsonl",
            "/data/reports/",
            "/data/validated/data_docs/",
            "/data/validated/data_docs/../../raw/a.jsonl",
            "/data/validated/data_docs/%2e%2e/%2e%2e/raw/a.jsonl",
            "/data/validated/data_docs/out",
            "//etc/passwd",
        ):
            assert get(path)[0] == 404, path
    assert PAGES_URL not in os.environ


def test_who_has_no_password_sees_nothing(workspace: Workspace) -> None:
    with pages(workspace, "somebody:secret"):
        assert get(REPORT) == (401, "")
        for password, status in (("somebody:secret", 200), ("somebody:wrong", 401)):
            assert get(REPORT, {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"})[0] == status


def test_another_place_may_serve_them(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PAGES_URL, "https://models.example.org")
    with pages(workspace, None):
        assert os.environ[PAGES_URL] == "https://models.example.org"
