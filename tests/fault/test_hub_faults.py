"""Every request of a publication to the Hub fails in every way, then a retry or a new run: one whole new version or none.

The client is the real one, without waiting between its own retries; the server is the loopback stand-in.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import HfApi

from tasks.errors import PipelineError, TransientError
from tasks.files import sha256_json
from tasks.registry import Manifest, may_be_published
from tests.hub import Fault, Hub, Request, Snapshot
from tests.hub_client import PATIENCE, REPO_ID, open_registry_of, use_client
from tests.unit.publishing import write_model

FAULTS = {
    "401": [Fault(401)],
    "403": [Fault(403)],
    "404": [Fault(404)],
    "409": [Fault(409)],
    "412": [Fault(412)],
    "429": [Fault(429)],
    "500 before the effect": [Fault(500)],
    "500 after the effect": [Fault(500, after=True)],
    "503 twice": [Fault(503), Fault(503)],
    "cut in the body": [Fault("cut")],
    "cut after the effect": [Fault("cut", after=True)],
    "timeout": [Fault("timeout")],
    "timeout after the effect": [Fault("timeout", after=True)],
}
DOCUMENTS = {"README.md": b"# card\n", "decision.json": b"{}\n"}


class Scene(NamedTuple):
    """A hub with v1 published, and the candidate for v2."""

    hub: Hub
    start: Snapshot
    candidate: Path
    digest: str
    requests: list[Request]
    folder: Path
    xet: bool


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yield from make_scene(tmp_path_factory.mktemp("faults"), patch, xet=False)


@pytest.fixture(scope="module")
def xet_scene(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yield from make_scene(tmp_path_factory.mktemp("faults over xet"), patch, xet=True)


def make_scene(folder: Path, patch: pytest.MonkeyPatch, xet: bool) -> Iterator[Scene]:
    use_client(patch, folder / "first", xet)
    with Hub(folder / "hub", xet) as hub:
        first = write_model(folder / "one", b"1" * 20_000)
        open_registry_of(hub).publish(folder / "one", first, DOCUMENTS, None, "first")
        start = hub.snapshot()
        digest = write_model(folder / "two", b"2" * 20_000)
        hub.reset()
        open_registry_of(hub).publish(folder / "two", digest, DOCUMENTS, "v1", "second")
        yield Scene(hub, start, folder / "two", digest, list(hub.requests), folder, xet)


def patience(fault: str) -> float:
    """Short only where it is tried: a busy machine takes its time, too."""
    return 0.5 if fault.startswith("timeout") else PATIENCE


def publish(scene: Scene) -> None:
    open_registry_of(scene.hub).publish(scene.candidate, scene.digest, DOCUMENTS, "v1", "second")


def check_reader(hub: Hub, digest: str) -> str:
    """What any reader finds, at any moment: a whole version on main, one at each tag. Returns the champion's name."""
    revisions = {"main": hub.head(REPO_ID), **hub.tags(REPO_ID)}
    for name, commit in revisions.items():
        files = hub.files(REPO_ID, commit)
        manifest = Manifest.model_validate_json(files["manifest.json"])
        of_model = {path: manifest.files[path] for path in files if may_be_published(path)}
        assert sha256_json(of_model) == manifest.model_digest, name
        assert files["model.safetensors"][:1] == (b"2" if manifest.model_digest == digest else b"1"), name
    moves = [json.loads(line) for line in hub.files(REPO_ID)["history.jsonl"].splitlines()]
    assert [move["version"] for move in moves] in (["v1"], ["v1", "v2"])
    assert set(hub.tags(REPO_ID)) in ({"v1"}, {"v1", "v2"})
    return str(moves[-1]["version"])


def check_published(hub: Hub, digest: str) -> None:
    assert check_reader(hub, digest) == "v2"
    assert hub.commits(REPO_ID) == ["v2: publish", "v1: publish", "initial commit"]
    assert set(hub.branches(REPO_ID)) == {"main"}
    assert hub.tags(REPO_ID)["v2"] == hub.head(REPO_ID)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_version_makes_the_repository_or_none(tmp_path: Path, patch: pytest.MonkeyPatch, fault: str) -> None:
    """Up to the first request that every publication makes."""
    digest = write_model(tmp_path / "one", b"2" * 20_000)
    for number in range(1, 5):
        with Hub(tmp_path / f"hub {number}") as hub:
            use_client(patch, tmp_path / f"cache {number}", patience=patience(fault))
            faults = iter(FAULTS[fault])
            hub.fault = lambda count, method, path, faults=faults, number=number: next(faults, None) if count >= number else None
            for _ in range(2):  # the second is a new run, where the first failed
                with suppress(PipelineError):
                    open_registry_of(hub).publish(tmp_path / "one", digest, DOCUMENTS, None, "first")
                    break
            assert hub.private(REPO_ID)
            assert hub.commits(REPO_ID) == ["v1: publish", "initial commit"]
            assert hub.tags(REPO_ID) == {"v1": hub.head(REPO_ID)}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_version_or_none(scene: Scene, patch: pytest.MonkeyPatch, fault: str) -> None:
    failed = [fails(scene, patch, fault, number) for number in range(1, len(scene.requests) + 1)]
    assert any(failed) is (fault != "429"), "asked for patience it waits; in all other ways some request must count"


@pytest.mark.parametrize("fault", FAULTS)
def test_one_version_or_none_over_xet(xet_scene: Scene, patch: pytest.MonkeyPatch, fault: str) -> None:
    """At the requests that only Xet makes of the Hub, and at the commit. What it stores itself lies in a folder here."""
    places = [
        number
        for number, request in enumerate(xet_scene.requests, 1)
        if "/xet-" in request.path or (request.method == "POST" and "/commit/" in request.path)
    ]
    assert len(places) > 2
    failed = [fails(xet_scene, patch, fault, number) for number in places]
    assert any(failed) is (fault != "429")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rollback_happens_once(scene: Scene, patch: pytest.MonkeyPatch, fault: str) -> None:
    hub = scene.hub

    def roll_back() -> None:
        assert open_registry_of(hub).rollback("v1", "worse").version == "v1"

    use_client(patch, scene.folder / "before the rollback")
    hub.restore(scene.start)
    publish(scene)
    both = hub.snapshot()
    for number in range(1, 1 + len(requests_of(scene, patch, roll_back))):
        cache = scene.folder / f"rollback, {fault} {number}"
        error = meet(scene, patch, both, fault, number, cache, roll_back)
        if error is not None:
            assert "\n" not in str(error)
            hub.reset()
            use_client(patch, cache)
            roll_back()
        assert hub.commits(REPO_ID) == ["v1: rollback", "v2: publish", "v1: publish", "initial commit"]
        assert hub.files(REPO_ID)["model.safetensors"][:1] == b"1"
        moves = [json.loads(line) for line in hub.files(REPO_ID)["history.jsonl"].splitlines()]
        assert [(move["version"], move["action"]) for move in moves] == [("v1", "publish"), ("v2", "publish"), ("v1", "rollback")]
        assert set(hub.tags(REPO_ID)) == {"v1", "v2"}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_pull_request_or_none(scene: Scene, patch: pytest.MonkeyPatch, fault: str) -> None:
    """At the requests that only a proposal makes, and what follows them; nobody merges it, so readers keep v1."""
    hub = scene.hub
    addresses = []

    def propose() -> None:
        registry = open_registry_of(hub, by_pull_request=True)
        addresses.append(registry.propose(scene.candidate, scene.digest, DOCUMENTS, "v1", "second"))

    hub.restore(scene.start)
    requests = requests_of(scene, patch, propose)
    opens = next(number for number, request in enumerate(requests, 1) if "create_pr" in request.path)
    places = [number for number, request in enumerate(requests, 1) if "/discussions" in request.path or number >= opens]
    assert len(places) > 2
    for number in places:
        cache = scene.folder / f"proposal, {fault} {number}"
        if meet(scene, patch, scene.start, fault, number, cache, propose) is not None:
            hub.reset()
            use_client(patch, cache)
            propose()
        api = HfApi(endpoint=hub.url, token=hub.token)
        assert [found.status for found in api.get_repo_discussions(REPO_ID)] in (["open"], ["draft"])
        assert check_reader(hub, scene.digest) == "v1"
        assert set(hub.branches(REPO_ID)) == {"main"}
    assert set(addresses) == {f"{hub.url}/{REPO_ID}/discussions/1"}


def requests_of(scene: Scene, patch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[Request]:
    """What an action asks of the hub where nothing goes wrong."""
    scene.hub.reset()
    use_client(patch, scene.folder / "counted")
    act()
    return list(scene.hub.requests)


def meet(
    scene: Scene, patch: pytest.MonkeyPatch, start: Snapshot, fault: str, number: int, cache: Path, act: Callable[[], None]
) -> PipelineError | None:
    """The error, if any, of an action that meets the fault at its request of this number."""
    hub = scene.hub
    hub.reset()
    hub.restore(start)
    use_client(patch, cache, scene.xet, patience(fault))
    faults = iter(FAULTS[fault])
    hub.fault = lambda count, method, path: next(faults, None) if count >= number else None
    error: PipelineError | None = None
    try:
        act()
    except PipelineError as caught:
        error = caught
    assert len(hub.requests) >= number, f"request {number} was never made"
    return error


def fails(scene: Scene, patch: pytest.MonkeyPatch, fault: str, number: int) -> bool:
    """Whether a publication fails that meets the fault at its request of this number; a retry and a new run make up for it."""
    hub, cache = scene.hub, scene.folder / f"{fault} {number}"
    error = meet(scene, patch, scene.start, fault, number, cache, lambda: publish(scene))
    where = f"{fault} at {hub.requests[number - 1]}"
    assert hub.fault is not None
    assert hub.fault(number, "", "") is None, f"{where}: not every fault was met"
    assert len(hub.requests) < 3 * len(scene.requests), f"{where}: retries without bound"
    champion = check_reader(hub, scene.digest)
    if error is None:
        check_published(hub, scene.digest)
        return False
    assert "\n" not in str(error), where
    assert hub.token not in str(error), where
    left = hub.snapshot()
    # Prefect does not try again what a person must mend, unless it was published all the same.
    ways = [cache] if champion == "v2" or isinstance(error, TransientError) else []
    for place in [*ways, cache.with_name(f"{cache.name}, a new run")]:
        hub.reset()
        hub.restore(left)
        use_client(patch, place, scene.xet)
        publish(scene)
        check_published(hub, scene.digest)
    return True
