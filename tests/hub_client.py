"""The real client of the Hub inside the tests' own process: its settings are read at import, and other tests change them."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from tasks.hub_registry import HubRegistry
from tasks.hub_repository import HubRepository, limit_patience
from tests.hub import Hub

REPO_ID = "quillmere/support"
PATIENCE = 60.0  # seconds, on a busy machine


def use_client(monkeypatch: pytest.MonkeyPatch, cache: Path, xet: bool = False, patience: float = PATIENCE) -> None:
    """A cache of the test's own, no retry that waits, and so many seconds for an answer."""
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_XET_CACHE": str(cache / "xet"),
        "HF_HUB_ETAG_TIMEOUT": patience,
        "HF_HUB_DOWNLOAD_TIMEOUT": patience,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    limit_patience(patience)


def open_registry_of(
    hub: Hub, token: str | bool | None = None, private: bool = True, by_pull_request: bool = False
) -> HubRegistry:
    """With the hub's write token, another one, or False for none."""
    api = HfApi(endpoint=hub.url, token=hub.token if token is None else token)
    return HubRegistry(HubRepository(REPO_ID, api), private, by_pull_request)
