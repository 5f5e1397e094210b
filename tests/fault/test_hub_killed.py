"""A publication to the Hub killed at any of its requests, and two at once: one whole new version or none."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_hub_faults import DOCUMENTS, check_published, check_reader
from tests.hub import Fault, Hub
from tests.hub_client import REPO_ID, open_registry_of, use_client
from tests.unit.publishing import write_model

_FORK = multiprocessing.get_context("fork")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """v1 is published."""
    with pytest.MonkeyPatch.context() as patch, Hub(tmp_path / "hub") as hub:
        use_client(patch, tmp_path / "cache")
        first = write_model(tmp_path / "one", b"1" * 20_000)
        open_registry_of(hub).publish(tmp_path / "one", first, DOCUMENTS, None, "first")
        yield hub


def _publish(hub: Hub, model: Path, digest: str, cache: Path, expected: str, result: Any = None) -> None:
    """In a child process: what its parent's client holds open is not its own."""
    with pytest.MonkeyPatch.context() as patch:
        use_client(patch, cache)
        try:
            outcome = open_registry_of(hub).publish(model, digest, DOCUMENTS, expected, model.name).version
        except Exception as error:  # whatever it is: the parent waits for an answer
            outcome = f"{type(error).__name__}: {error}"
    if result is not None:
        result.put(outcome)


def _start(*arguments: Any) -> Any:
    child = _FORK.Process(target=_publish, args=arguments)
    child.start()
    return child


@pytest.mark.parametrize("moment", ["before the effect", "after the effect"])
def test_killed_at_every_request(hub: Hub, tmp_path: Path, moment: str) -> None:
    digest = write_model(tmp_path / "two", b"2" * 20_000)
    start = hub.snapshot()
    hub.reset()
    _start(hub, tmp_path / "two", digest, tmp_path / "counted", "v1").join()
    total = len(hub.requests)
    assert total > 25
    check_published(hub, digest)

    champions = []
    for number in range(1, total + 1):
        hub.reset()
        hub.restore(start)
        children: list[Any] = []

        def kill(count: int, method: str, path: str, number: int = number, children: list[Any] = children) -> Fault | None:
            if count != number:
                return None
            os.kill(children[0].pid, signal.SIGKILL)
            return None if moment == "after the effect" else Fault("cut")

        hub.fault = kill
        children.append(_start(hub, tmp_path / "two", digest, tmp_path / f"cache {number}", "v1"))
        children[0].join()
        assert children[0].exitcode == -signal.SIGKILL, f"request {number} of {total}"
        champions.append(check_reader(hub, digest))
        hub.reset()
        _publish(hub, tmp_path / "two", digest, tmp_path / f"cache {number}", "v1")
        check_published(hub, digest)
    assert champions == sorted(champions), "the pointer moves once"
    assert {"v1", "v2"} == set(champions)


@pytest.mark.parametrize("same_model", [False, True], ids=["two models", "one model"])
def test_two_publishers_at_once(hub: Hub, tmp_path: Path, same_model: bool) -> None:
    models = [tmp_path / "left", tmp_path / "right"]
    digests = [write_model(model, b"2" * 20_000 if same_model else model.name.encode() * 5_000) for model in models]
    start = hub.snapshot()
    for attempt in range(10):
        hub.reset()
        hub.restore(start)
        result = _FORK.SimpleQueue()
        children = [
            _start(hub, model, digest, tmp_path / f"{model.name} {attempt}", "v1", result)
            for model, digest in zip(models, digests, strict=True)
        ]
        outcomes = sorted(result.get() for _ in children)
        for child in children:
            child.join()
        if same_model:
            assert outcomes == ["v2", "v2"]
        else:
            assert outcomes[0].startswith("StaleChampionError: hub:quillmere/support: the champion is v2, wanted v1"), outcomes
            assert outcomes[1] == "v2"
        champion = open_registry_of(hub).champion()
        assert champion is not None
        assert (champion.version, champion.previous) == ("v2", "v1")
        assert champion.digest in digests
        assert hub.commits(REPO_ID) == ["v2: publish", "v1: publish", "initial commit"]
        assert set(hub.tags(REPO_ID)) == {"v1", "v2"}
        left = set(hub.branches(REPO_ID)) - {"main"}
        assert left <= {f"refit-staging-{digest[:12]}" for digest in digests if digest != champion.digest}
