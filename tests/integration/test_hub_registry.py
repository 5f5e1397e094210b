"""The registry on the Hub, by the real client against the loopback stand-in: what readers find, what is refused, what is sent."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from tasks.errors import NetworkError, NotApprovedError, RegistryError, StaleChampionError
from tasks.files import hash_tree, tree_digest
from tasks.hub_registry import HubRegistry
from tasks.hub_repository import HubRepository, _seconds, open_repository
from tasks.registry import Pointer
from tests.hub import Fault, Hub
from tests.hub_client import REPO_ID, open_registry_of, use_client
from tests.unit.publishing import write_model

DOCUMENTS = {"README.md": b"---\nlicense: mit\n---\n# card\n", "decision.json": b"{}\n"}
BIG = 20_000
"""Bytes of weights that the Hub stores beside git."""


@pytest.fixture(params=[False, True], ids=["lfs", "xet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    use_client(monkeypatch, tmp_path / "cache", xet=request.param)
    with Hub(tmp_path / "hub", xet=request.param) as hub:
        yield hub


@pytest.fixture
def registry(hub: Hub) -> HubRegistry:
    return open_registry_of(hub)


def api_of(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


def make(tmp_path: Path, name: str) -> tuple[Path, str]:
    folder = tmp_path / name
    return folder, write_model(folder, name.encode() * BIG)


def publish(registry: HubRegistry, tmp_path: Path, name: str, documents: dict[str, bytes] | None = None) -> Pointer:
    """Publish a model with its own bytes over whatever is the champion."""
    folder, digest = make(tmp_path, name)
    champion = registry.champion()
    return registry.publish(folder, digest, documents or DOCUMENTS, champion.version if champion else None, f"gate passed {name}")


def refused_unchanged(hub: Hub, act: object, kind: type[Exception], match: str) -> None:
    before = {branch: hub.files(REPO_ID, branch) for branch in hub.branches(REPO_ID)}, hub.tags(REPO_ID)
    with pytest.raises(kind, match=match):
        act()  # type: ignore[operator]
    assert ({branch: hub.files(REPO_ID, branch) for branch in hub.branches(REPO_ID)}, hub.tags(REPO_ID)) == before


def test_reading_makes_no_repository(hub: Hub, registry: HubRegistry) -> None:
    assert registry.champion() is None
    assert registry.versions() == []
    assert registry.history() == []
    assert registry.find("0" * 64) is None
    assert {request.method for request in hub.requests} == {"GET"}


@pytest.mark.parametrize("private", [True, False])
def test_first_version(hub: Hub, tmp_path: Path, private: bool) -> None:
    registry = open_registry_of(hub, private=private)
    pointer = publish(registry, tmp_path, "one")
    digest = tree_digest(tmp_path / "one")
    assert pointer == Pointer(version="v1", digest=digest, previous=None) == registry.champion()
    assert hub.private(REPO_ID) is private
    files = hub.files(REPO_ID)
    assert {name: files[name] for name in DOCUMENTS} == DOCUMENTS
    for name in hash_tree(tmp_path / "one"):
        assert files[name] == (tmp_path / "one" / name).read_bytes()
    assert set(files) == {*DOCUMENTS, *hash_tree(tmp_path / "one"), "manifest.json", "history.jsonl", ".gitattributes"}
    assert hub.tags(REPO_ID) == {"v1": hub.head(REPO_ID)}
    assert set(hub.branches(REPO_ID)) == {"main"}
    assert registry.verify("v1").model_digest == digest
    assert registry.find(digest) == "v1"


def test_next_version_replaces_every_file_of_the_one_before(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    first = tmp_path / "one"
    write_model(first, b"1" * BIG)
    (first / "merges.txt").write_text("a b\n")
    registry.publish(first, tree_digest(first), {**DOCUMENTS, "dvc.lock": b"{}"}, None, "first")
    second = publish(registry, tmp_path, "two")
    assert (second.version, second.previous) == ("v2", "v1")
    assert not {"merges.txt", "dvc.lock"} & set(hub.files(REPO_ID))
    assert {"merges.txt", "dvc.lock"} <= set(hub.files(REPO_ID, "v1"))
    assert registry.versions() == ["v1", "v2"]
    assert [(move.version, move.previous, move.reason) for move in registry.history()] == [
        ("v1", None, "first"),
        ("v2", "v1", "gate passed two"),
    ]
    for version in ("v1", "v2"):
        registry.verify(version)
    assert registry.document("v1", "dvc.lock") == b"{}"
    assert registry.document("v2", "dvc.lock") is None


def test_published_again_it_sends_no_file(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    pointer = publish(registry, tmp_path, "one")
    head = hub.head(REPO_ID)
    hub.reset()
    assert registry.publish(tmp_path / "one", pointer.digest, DOCUMENTS, None, "again") == pointer
    assert hub.head(REPO_ID) == head
    assert sum(request.bytes_in for request in hub.requests) == 0
    assert {request.method for request in hub.requests} <= {"GET", "HEAD"}


def test_what_is_staged_is_seen_by_no_reader_and_sent_once(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    folder, digest = make(tmp_path, "two")
    staged = registry.stage(folder, digest, DOCUMENTS)
    assert staged == f"refit-staging-{digest[:12]}"
    assert registry.versions() == ["v1"]
    assert hub.files(REPO_ID)["model.safetensors"] == b"one" * BIG
    assert registry.verify(staged).model_digest == digest
    hub.reset()
    assert registry.stage(folder, digest, DOCUMENTS) == staged
    assert sum(request.bytes_in for request in hub.requests if "commit" in request.path or request.method == "PUT") == 0
    pointer = registry.promote(staged, "v1", "it was good")
    assert (pointer.version, pointer.digest) == ("v2", digest)
    assert registry.stage(folder, digest, DOCUMENTS) == "v2"
    assert set(hub.branches(REPO_ID)) == {"main"}


def test_somebody_published_meanwhile(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    folder, digest = make(tmp_path, "three")
    publish(registry, tmp_path, "two")
    refused_unchanged(
        hub, lambda: registry.publish(folder, digest, DOCUMENTS, "v1", ""), StaleChampionError, "champion is v2, wanted v1"
    )


def test_main_that_moves_in_the_last_moment_is_not_overwritten(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    folder, digest = make(tmp_path, "three")
    other, ended = make(tmp_path, "two"), threading.Event()

    def fault(number: int, method: str, path: str) -> Fault | None:
        if method == "POST" and path.endswith("/commit/main"):
            hub.fault = None
            open_registry_of(hub).publish(*other, DOCUMENTS, "v1", "the faster one")
            ended.set()
        return None

    hub.fault = fault
    with pytest.raises(StaleChampionError, match="champion is v2, wanted v1; somebody published meanwhile"):
        registry.publish(folder, digest, DOCUMENTS, "v1", "")
    assert ended.wait(120), "the client may have lost patience before the other one had published"
    assert hub.files(REPO_ID)["model.safetensors"] == b"two" * BIG
    assert registry.versions() == ["v1", "v2"]
    assert publish(registry, tmp_path, "three").version == "v3"


def test_a_staging_branch_that_goes_while_it_is_filled_is_a_matter_of_the_moment(
    hub: Hub, registry: HubRegistry, tmp_path: Path
) -> None:
    """The end of another publication removes all of them."""

    def fault(number: int, method: str, path: str) -> Fault | None:
        if method == "POST" and "/commit/refit-staging-" in path:
            hub.fault = None
            api_of(hub).delete_branch(REPO_ID, branch=path.rpartition("/")[2])
        return None

    hub.fault = fault
    with pytest.raises(NetworkError, match=r"404 Invalid rev id: refit-staging-.*; it went meanwhile"):
        publish(registry, tmp_path, "one")
    assert registry.champion() is None
    assert publish(registry, tmp_path, "one").version == "v1"


def test_a_card_edited_by_hand_does_not_stop_a_publication(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    pointer = publish(registry, tmp_path, "one")
    api_of(hub).upload_file(repo_id=REPO_ID, path_in_repo="README.md", path_or_fileobj=b"# by hand")
    assert registry.promote("v1", None, "") == pointer
    assert publish(registry, tmp_path, "two").version == "v2"
    assert hub.files(REPO_ID)["README.md"] == DOCUMENTS["README.md"]


def test_weights_changed_by_hand_are_not_called_published(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    api_of(hub).upload_file(repo_id=REPO_ID, path_in_repo="config.json", path_or_fileobj=b"{}")
    refused_unchanged(
        hub, lambda: registry.promote("v1", None, ""), RegistryError, "main says that it is v1, but has other config.json"
    )


def test_foreign_files_are_refused_before_anything_is_sent(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    api = api_of(hub)
    api.create_repo(REPO_ID)
    operations = [CommitOperationAdd("optimizer.pt", b"{}"), CommitOperationAdd("LICENSE", b"MIT")]
    api.create_commit(REPO_ID, operations, commit_message="by hand")
    refused_unchanged(
        hub, lambda: publish(registry, tmp_path, "one"), RegistryError, "that no version of a model has: optimizer.pt;"
    )


def test_files_that_may_not_be_published_are_refused(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    folder, _ = make(tmp_path, "one")
    (folder / "training_args.bin").write_bytes(b"pickle")
    with pytest.raises(RegistryError, match=r"may not be published: training_args.bin"):
        registry.publish(folder, tree_digest(folder), DOCUMENTS, None, "")


def test_damage_on_the_hub_is_found(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    api = api_of(hub)
    api.upload_file(repo_id=REPO_ID, path_in_repo="tokenizer.json", path_or_fileobj=b"{1}")
    api.upload_file(repo_id=REPO_ID, path_in_repo="model.safetensors", path_or_fileobj=b"x" * BIG)
    api.delete_tag(REPO_ID, tag="v1")
    api.create_tag(REPO_ID, tag="v1")
    with pytest.raises(RegistryError, match=r"v1 is damaged: model.safetensors, tokenizer.json differ"):
        registry.verify("v1")
    with pytest.raises(RegistryError, match="damaged"):
        registry.fetch("v1", tmp_path / "fetched")


def test_rollback_and_back_keep_the_history(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish(registry, tmp_path, name)
    two = tree_digest(tmp_path / "two")
    assert registry.rollback(None, "rude").version == "v1"
    assert registry.withdrawn(two) == "rude"
    assert hub.files(REPO_ID)["model.safetensors"] == b"one" * BIG
    refused_unchanged(hub, lambda: publish(registry, tmp_path, "two"), NotApprovedError, r"rolled back \(rude\)")
    assert publish(registry, tmp_path, "three") == Pointer(version="v3", digest=tree_digest(tmp_path / "three"), previous="v1")
    assert registry.rollback("v2", "was fine") == registry.rollback("v2", "was fine")
    assert registry.withdrawn(two) is None
    assert [(move.version, move.action) for move in registry.history()] == [
        ("v1", "publish"),
        ("v2", "publish"),
        ("v1", "rollback"),
        ("v3", "publish"),
        ("v2", "rollback"),
    ]
    assert hub.commits(REPO_ID)[:2] == ["v2: rollback", "v3: publish"]
    assert set(hub.tags(REPO_ID)) == {"v1", "v2", "v3"}
    with pytest.raises(RegistryError, match=r"no version v9; there are \['v1', 'v2', 'v3'\]"):
        registry.rollback("v9", "")


def test_fetched_it_is_the_model_alone_byte_for_byte(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    publish(registry, tmp_path, "two")
    for version, name in (("v1", "one"), ("v2", "two")):
        registry.fetch(version, tmp_path / "deep" / version)
        assert hash_tree(tmp_path / "deep" / version) == hash_tree(tmp_path / name)


def propose(registry: HubRegistry, tmp_path: Path, name: str, expected: str | None) -> str:
    folder, digest = make(tmp_path, name)
    return registry.propose(folder, digest, DOCUMENTS, expected, f"gate passed {name}")


def merge(hub: Hub, number: int) -> None:
    api = api_of(hub)
    if api.get_discussion_details(REPO_ID, number).status == "draft":
        api.change_discussion_status(REPO_ID, number, "open")
    api.merge_pull_request(REPO_ID, number)


def test_a_proposed_version_is_one_when_it_is_merged(hub: Hub, tmp_path: Path) -> None:
    registry = open_registry_of(hub, by_pull_request=True)
    publish(registry, tmp_path, "one")
    address = propose(registry, tmp_path, "two", "v1")
    assert address == f"{hub.url}/{REPO_ID}/discussions/1" == propose(registry, tmp_path, "two", "v1")
    assert registry.versions() == ["v1"]
    assert hub.files(REPO_ID)["model.safetensors"] == b"one" * BIG
    assert set(hub.branches(REPO_ID)) == {"main"}
    merge(hub, 1)
    digest = tree_digest(tmp_path / "two")
    assert registry.champion() == Pointer(version="v2", digest=digest, previous="v1")
    assert registry.promote("v2", "v1", "").version == "v2"
    assert hub.tags(REPO_ID)["v2"] == hub.head(REPO_ID)
    assert registry.verify("v2").model_digest == digest


def test_a_version_whose_tag_is_missing_gets_it_from_the_next_one(hub: Hub, tmp_path: Path) -> None:
    """A merged one, and one whose publisher was ended between main and tag; both can be gone back to."""
    registry = open_registry_of(hub, by_pull_request=True)
    publish(registry, tmp_path, "one")
    propose(registry, tmp_path, "two", "v1")
    merge(hub, 1)
    merged = hub.head(REPO_ID)
    propose(registry, tmp_path, "three", "v2")
    assert hub.tags(REPO_ID)["v2"] == merged
    hub.fault = lambda number, method, path: Fault(500) if "/tag/" in path else None
    with pytest.raises(NetworkError, match="cannot tag v3"):
        publish(registry, tmp_path, "four")
    hub.fault = None
    assert "v3" not in hub.tags(REPO_ID)
    publish(registry, tmp_path, "five")
    assert registry.versions() == ["v1", "v2", "v3", "v4"]
    assert registry.rollback(None, "worse").digest == tree_digest(tmp_path / "four")


def test_a_closed_pull_request_is_a_refusal(hub: Hub, tmp_path: Path) -> None:
    registry = open_registry_of(hub, by_pull_request=True)
    publish(registry, tmp_path, "one")
    propose(registry, tmp_path, "two", "v1")
    assert registry.withdrawn(tree_digest(tmp_path / "two")) is None
    api_of(hub).change_discussion_status(REPO_ID, 1, "closed")
    assert registry.withdrawn(tree_digest(tmp_path / "two")) == "its pull request 1 was closed"
    with pytest.raises(NotApprovedError, match=r"was refused \(its pull request 1 was closed\); train another"):
        propose(registry, tmp_path, "two", "v1")
    assert propose(registry, tmp_path, "three", "v1").endswith("/discussions/2")


def test_a_proposal_that_was_overtaken_is_made_anew(hub: Hub, tmp_path: Path) -> None:
    registry = open_registry_of(hub, by_pull_request=True)
    publish(registry, tmp_path, "one")
    propose(registry, tmp_path, "two", "v1")
    publish(registry, tmp_path, "three")
    with pytest.raises(StaleChampionError):
        propose(registry, tmp_path, "two", "v1")
    assert propose(registry, tmp_path, "two", "v2").endswith("/discussions/2")
    with pytest.raises(HfHubHTTPError):
        merge(hub, 1)
    merge(hub, 2)
    champion = registry.champion()
    assert champion is not None
    assert (champion.version, champion.digest) == ("v3", tree_digest(tmp_path / "two"))


def test_many_shards_arrive_in_several_commits_and_move_in_one(
    hub: Hub, registry: HubRegistry, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, _ = make(tmp_path, "one")
    for number in range(1, 301):
        (folder / f"model-{number:05}-of-00300.safetensors").write_bytes(b"%d" % number)
    pointer = registry.publish(folder, tree_digest(folder), DOCUMENTS, None, "sharded")
    staging = [sent for sent in hub.requests if sent.method == "POST" and "/commit/refit-staging-" in sent.path]
    assert len(staging) == (3 if "xet" in request.node.name else 2)  # the last one is of the manifest
    assert hub.commits(REPO_ID) == ["v1: publish", "initial commit"]
    assert registry.verify("v1").model_digest == pointer.digest
    assert len(hub.files(REPO_ID)) > 300


def test_a_token_with_a_line_end_is_taken_without_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a file; HTTP would refuse it, in an error that shows it."""
    monkeypatch.setenv("HF_TOKEN", f"{hub.token}\n")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert open_repository(REPO_ID).api.token == hub.token


def test_tokens(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    registry.check_access()  # there is no repository yet, but the namespace is the user's own
    with pytest.raises(RegistryError, match="does not exist, and HF_TOKEN may only read"):
        open_registry_of(hub, hub.read_token).check_access()
    publish(registry, tmp_path, "one")
    registry.check_access()
    reader, nobody, wrong = (open_registry_of(hub, token) for token in (hub.read_token, False, "hf_wrong"))
    assert reader.versions() == ["v1"]
    for act in (reader.check_access, lambda: publish(reader, tmp_path, "two")):
        refused_unchanged(hub, act, RegistryError, "403 .*; HF_TOKEN is valid, but needs write access to quillmere/support")
    for stranger in (nobody, wrong):
        for read in (stranger.champion, stranger.check_access):
            refused_unchanged(hub, read, RegistryError, "401 .*; set HF_TOKEN to a valid token with access to quillmere/support")


def test_a_repository_that_nobody_could_make_is_named_before_any_work(hub: Hub) -> None:
    registry = HubRegistry(HubRepository("somebody/else", api_of(hub)), private=True)
    with pytest.raises(RegistryError, match=r"HF_TOKEN, of tester, may make repositories only in tester, quillmere"):
        registry.check_access()


def test_a_hub_that_asks_for_patience_gets_it(
    hub: Hub, registry: HubRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tasks.hub_registry.time.sleep", waited.append)
    refusals = iter([Fault(429)])
    hub.fault = lambda number, method, path: (
        next(refusals, None) if path.endswith("/branch/refit-staging-") or "/tag/" in path else None
    )
    assert publish(registry, tmp_path, "one").version == "v1"
    assert 1.0 in waited
    hub.fault = lambda number, method, path: Fault(429) if "/tree/" in path else None
    with pytest.raises(NetworkError, match=r"cannot list .*: 429"):
        publish(registry, tmp_path, "two")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"retry-after": "Fri, 27 Nov 2026 10:00:00 GMT"}, 1.0),
    ],
)
def test_how_long_the_hub_wants_one_to_wait(headers: dict[str, str], seconds: float) -> None:
    assert _seconds(headers) == seconds


def test_history_of_another_hand_is_refused(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    api_of(hub).upload_file(repo_id=REPO_ID, path_in_repo="history.jsonl", path_or_fileobj=json.dumps({"v": 1}).encode())
    with pytest.raises(RegistryError, match=r"history.jsonl: not a move"):
        registry.champion()


def test_a_gone_hub_is_a_network_error(hub: Hub, registry: HubRegistry, tmp_path: Path) -> None:
    publish(registry, tmp_path, "one")
    hub.stop()
    with pytest.raises(NetworkError, match="hub:quillmere/support: cannot read: ConnectError"):
        registry.champion()
