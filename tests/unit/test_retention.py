"""What a run removes, and what it never does."""

import json
import os
from pathlib import Path

import pytest

from tasks.local_registry import LocalRegistry
from tasks.retention import superfluous
from tests.unit.publishing import write_model


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return LocalRegistry(tmp_path / "registry")


def publish(registry: LocalRegistry, best: str | None) -> None:
    """One version more, judged beside `best`."""
    champion = registry.champion()
    name = f"model-{len(registry.versions())}"
    digest = write_model(registry.path.parent / name, name.encode())
    documents = {"README.md": b"", "decision.json": json.dumps({"best_version": best}).encode()}
    registry.publish(registry.path.parent / name, digest, documents, champion.version if champion else None, "")


def test_an_empty_registry_has_nothing_to_remove(registry: LocalRegistry) -> None:
    assert superfluous(registry, 1) == []


@pytest.mark.parametrize(
    ("best", "keep", "wanted"),
    [
        (None, 1, ["v1", "v2", "v3", "v4"]),
        (None, 3, ["v1", "v2", "v3"]),
        (None, 6, []),
        (None, 20, []),
        ("v2", 1, ["v1", "v3", "v4"]),
    ],
)
def test_champion_its_predecessor_and_the_best_stay(
    registry: LocalRegistry, best: str | None, keep: int, wanted: list[str]
) -> None:
    for _ in range(6):
        publish(registry, best)
    assert superfluous(registry, keep) == wanted


def test_after_a_roll_back_the_champion_stays_and_not_what_it_took_back(registry: LocalRegistry) -> None:
    for _ in range(4):
        publish(registry, None)
    registry.rollback("v1", "rude")
    assert superfluous(registry, 1) == ["v2", "v3"]
