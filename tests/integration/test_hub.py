"""The stand-in of the Hugging Face Hub in tests/hub.py, proved with the Hub's own client."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils.sha import git_hash

from tests import hub_api
from tests.hub import Fault, FaultRule, Hub

REPO, WEIGHTS = "acme/model", "sub/deep/model.safetensors"
STATUSES = (401, 403, 404, 409, 412, 429, 500, 503)


@pytest.fixture(autouse=True)
def _online_without_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; what other tests set in it does not count."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def hub_with_xet(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub", xet=True) as hub:
        yield hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(REPO)
    hub.reset()
    return api


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with text, nothing, a large object, and names that need quoting."""
    files = {
        "README.md": b"# A model\n",
        "config.json": b"{}",
        "empty": b"",
        "sub/notes & ä?#.txt": b"notes",
        WEIGHTS: os.urandom(200_000),
    }
    for name, content in files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploaded(hub: Hub, repo_id: str = REPO, **where: Any) -> dict[str, bytes]:
    """What a repository holds beside its first file."""
    return {path: content for path, content in hub.files(repo_id, **where).items() if path != ".gitattributes"}


def hashes(entries: Iterable[RepoFile | RepoFolder]) -> dict[str, str]:
    return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in entries if isinstance(file, RepoFile)}


def sent(hub: Hub, part: str, method: str = "POST") -> int:
    return sum(part in request.path and request.method == method for request in hub.requests)


def on_first(method: str, part: str, fault: Fault) -> FaultRule:
    """The fault for the first request like this."""
    seen: list[int] = []

    def rule(number: int, verb: str, path: str) -> Fault | None:
        if verb != method or part not in path or seen:
            return None
        seen.append(number)
        return fault

    return rule


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


def test_repositories_are_created_once_changed_and_deleted(hub: Hub, api: HfApi) -> None:
    assert api.whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError) as twice:
        api.create_repo(REPO)
    assert status_of(twice) == 409
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert hub.commits(REPO) == ["initial commit"]
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert not hub.private(REPO)
    api.update_repo_settings(REPO, private=True)
    assert hub.private(REPO)
    assert api.model_info(REPO, expand=["private"]).private
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    api.delete_repo(REPO, missing_ok=True)


def test_a_private_repository_is_hidden_and_a_read_token_cannot_write(hub: Hub, api: HfApi) -> None:
    api.create_repo("acme/hidden", private=True)
    nobody, reader = HfApi(endpoint=hub.url, token=False), HfApi(endpoint=hub.url, token=hub.read_token)
    assert nobody.model_info(REPO).id == REPO
    with pytest.raises(RepositoryNotFoundError):
        nobody.model_info("acme/hidden")
    with pytest.raises(RepositoryNotFoundError):
        nobody.create_tag(REPO, tag="v1")
    assert reader.model_info("acme/hidden").private
    with pytest.raises(HfHubHTTPError) as refused:
        reader.create_tag("acme/hidden", tag="v1")
    assert status_of(refused) == 403
    with pytest.raises(HfHubHTTPError) as unknown:
        HfApi(endpoint=hub.url, token="hf_unknown").model_info(REPO)
    assert status_of(unknown) == 401
    assert not isinstance(unknown.value, RepositoryNotFoundError)


def test_a_folder_goes_up_and_comes_back_with_the_hashes_of_git(hub: Hub, api: HfApi, model: Path, tmp_path: Path) -> None:
    commit = api.upload_folder(repo_id=REPO, folder_path=model, commit_message="First")
    assert uploaded(hub) == contents(model)
    assert hub.commits(REPO) == ["First", "initial commit"]
    assert hub.head(REPO) == commit.oid
    assert hashes(api.get_paths_info(REPO, list(contents(model)))) == {
        path: hashlib.sha256(content).hexdigest() if path == WEIGHTS else git_hash(content)
        for path, content in contents(model).items()
    }
    down = api.snapshot_download(REPO, cache_dir=tmp_path / "cache")
    assert contents(Path(down)) == hub.files(REPO)
    assert Path(down).name == commit.oid


def test_trees_and_commits_are_those_of_git(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    names = ("a.txt", "a/b.txt", "a/b/c.txt", "a-b", "z/\u00e9.txt")
    adds = [CommitOperationAdd(name, name.encode()) for name in names]
    with pytest.raises(BadRequestError, match="a would be a file and a folder"):
        api.create_commit(REPO, [CommitOperationAdd("a", b""), *adds], commit_message="A file and a folder")
    api.create_commit(REPO, adds, commit_message="Names", commit_description="in git's order")
    for name, content in hub.files(REPO).items():
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def git(*words: str, text: str = "") -> str:
        command = ["git", "-c", "core.autocrlf=false", *words]
        return subprocess.run(command, cwd=tmp_path / "work", input=text, text=True, check=True, stdout=subprocess.PIPE).stdout

    git("init", "--quiet")
    git("add", "--all", "--force")
    tree = git("write-tree").strip()
    head = hub.repo(REPO).head
    person = f"tester <tester@localhost> {head.seconds} +0000"
    text = f"tree {tree}\nparent {head.parent}\nauthor {person}\ncommitter {person}\n\nNames\n\nin git's order\n"
    assert git("hash-object", "-t", "commit", "--literally", "--stdin", text=text).strip() == head.sha
    entries = api.list_repo_tree(REPO, recursive=True)
    assert {folder.path: folder.tree_id for folder in entries if isinstance(folder, RepoFolder)} == {
        name: git("rev-parse", f"{tree}:{name}").strip() for name in ("a", "a/b", "z")
    }


def test_the_same_folder_again_sends_no_file_and_makes_no_commit(hub: Hub, api: HfApi, model: Path) -> None:
    first = api.upload_folder(repo_id=REPO, folder_path=model)
    hub.reset()
    assert api.upload_folder(repo_id=REPO, folder_path=model).oid == first.oid
    assert not sent(hub, "", "PUT")
    assert not sent(hub, "/commit/")
    assert len(hub.commits(REPO)) == 2


def test_a_commit_on_a_head_that_moved_is_refused_whole(hub: Hub, api: HfApi) -> None:
    start = hub.head(REPO)
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", parent_commit=start)
    with pytest.raises(HfHubHTTPError) as moved:
        api.upload_file(repo_id=REPO, path_in_repo="b.txt", path_or_fileobj=b"b", parent_commit=start)
    assert status_of(moved) == 412
    half: list[Any] = [CommitOperationAdd("b.txt", b"b"), CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit(REPO, half, commit_message="Half")
    assert uploaded(hub) == {"a.txt": b"a"}
    assert api.file_exists(REPO, "a.txt")
    assert not api.file_exists(REPO, "b.txt")


def test_branches_and_tags(hub: Hub, api: HfApi) -> None:
    start = hub.head(REPO)
    second = api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a").oid
    api.create_branch(REPO, branch="feature/x", revision=start[:7])
    api.create_tag(REPO, tag="v1", revision="feature/x")
    api.create_tag(REPO, tag="v2")
    assert hub.branches(REPO) == {"main": second, "feature/x": start}
    assert hub.tags(REPO) == {"v1": start, "v2": second}
    assert [ref.name for ref in api.list_repo_refs(REPO).tags] == ["v1", "v2"]
    twice: tuple[Callable[[], None], ...] = (
        lambda: api.create_branch(REPO, branch="feature/x"),
        lambda: api.create_tag(REPO, tag="v1"),
    )
    for again in twice:
        with pytest.raises(HfHubHTTPError) as there:
            again()
        assert status_of(there) == 409
    api.create_branch(REPO, branch="feature/x", exist_ok=True)
    api.create_tag(REPO, tag="v1", exist_ok=True)
    api.delete_branch(REPO, branch="feature/x")
    api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="v1")
    with pytest.raises(HfHubHTTPError, match="Cannot delete refs/heads/main"):
        api.delete_branch(REPO, branch="main")
    with pytest.raises(RevisionNotFoundError):
        api.create_branch(REPO, branch="b", revision="nowhere")
    assert not api.revision_exists(REPO, "v1")
    assert hub.tags(REPO) == {"v2": second}


def test_files_are_copied_from_another_revision_without_their_bytes(hub: Hub, api: HfApi, model: Path) -> None:
    old = api.upload_folder(repo_id=REPO, folder_path=model).oid
    api.create_commit(REPO, [CommitOperationDelete("sub/"), CommitOperationDelete("README.md")], commit_message="Gone")
    assert set(uploaded(hub)) == {"config.json", "empty"}
    hub.reset()
    back = [
        CommitOperationCopy(WEIGHTS, "back.safetensors", src_revision=old),
        CommitOperationCopy("README.md", "README.md", old),
    ]
    api.create_commit(REPO, back, commit_message="Back")
    assert hub.files(REPO)["back.safetensors"] == (model / WEIGHTS).read_bytes()
    assert hub.files(REPO)["README.md"] == b"# A model\n"
    assert sum(request.bytes_in for request in hub.requests) < 2_000


def test_pull_requests(hub: Hub, api: HfApi) -> None:
    direct = api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", create_pr=True)
    assert direct.pr_num == 1
    assert uploaded(hub) == {}
    assert uploaded(hub, revision="refs/pr/1") == {"a.txt": b"a"}
    draft = api.create_pull_request(REPO, title="Two files")
    assert (draft.status, draft.git_reference) == ("draft", "refs/pr/2")
    for name in ("b.txt", "c.txt"):
        api.upload_file(repo_id=REPO, path_in_repo=name, path_or_fileobj=b"2", revision=draft.git_reference)
    with pytest.raises(BadRequestError):
        api.merge_pull_request(REPO, 2)
    api.change_discussion_status(REPO, 2, new_status="open")
    api.merge_pull_request(REPO, 1)
    api.merge_pull_request(REPO, 2)
    assert uploaded(hub) == {"a.txt": b"a", "b.txt": b"2", "c.txt": b"2"}
    assert hub.commits(REPO)[0] == "Two files (#2)"
    details = api.get_discussion_details(REPO, 2)
    assert (details.status, details.merge_commit_oid) == ("merged", hub.head(REPO))


def test_a_pull_request_against_a_change_of_main_conflicts(hub: Hub, api: HfApi) -> None:
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"theirs", create_pr=True)
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"ours")
    assert api.get_discussion_details(REPO, 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError) as refused:
        api.merge_pull_request(REPO, 1)
    assert status_of(refused) == 409
    api.change_discussion_status(REPO, 1, new_status="closed")
    assert not list(api.get_repo_discussions(REPO, discussion_status="open"))
    assert [each.num for each in api.get_repo_discussions(REPO, discussion_type="pull_request")] == [1]
    assert uploaded(hub) == {"a.txt": b"ours"}


def test_datasets_are_apart_from_models(hub: Hub, api: HfApi, model: Path, tmp_path: Path) -> None:
    api.create_repo(REPO, repo_type="dataset", private=True)
    api.upload_folder(repo_id=REPO, folder_path=model, repo_type="dataset")
    assert uploaded(hub) == {}
    assert uploaded(hub, repo_type="dataset") == contents(model)
    down = api.snapshot_download(REPO, repo_type="dataset", local_dir=tmp_path / "down", allow_patterns="sub/*")
    assert set(contents(Path(down) / "sub")) == set(contents(model / "sub"))
    info = api.dataset_info(REPO, files_metadata=True)
    assert {file.rfilename: file.size for file in info.siblings or ()} == {
        path: len(content) for path, content in hub.files(REPO, repo_type="dataset").items()
    }


def test_lists_come_in_pages(hub: Hub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_api, "PAGE", 40)
    api.create_commit(REPO, [CommitOperationAdd(f"{n}.txt", b"") for n in range(90)], commit_message="Many")
    api.create_tag(REPO, tag="v1")
    for number in range(3):
        api.upload_file(repo_id=REPO, path_in_repo="0.txt", path_or_fileobj=str(number).encode())
    hub.reset()
    assert len(api.list_repo_files(REPO)) == 91
    assert len(api.list_repo_commits(REPO)) == 5
    assert (sent(hub, "/tree/", "GET"), sent(hub, "/commits/", "GET")) == (3, 3)


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_on_demand(hub: Hub, api: HfApi, status: int) -> None:
    hub.fault = lambda number, method, path: Fault(status) if number == 2 else None
    api.model_info(REPO)
    with pytest.raises(HfHubHTTPError) as error:
        api.model_info(REPO)
    assert status_of(error) == status
    assert isinstance(error.value, RepositoryNotFoundError) == (status == 404)
    assert error.value.response.headers.get("Retry-After") == ("1" if status == 429 else None)
    assert api.model_info(REPO).id == REPO
    assert [request.status for request in hub.requests] == [200, status, 200]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", [503, "cut"])
def test_a_request_fails_before_or_after_its_effect(hub: Hub, api: HfApi, kind: Any, after: bool) -> None:
    hub.fault = lambda number, method, path: Fault(kind, after)
    with pytest.raises((HfHubHTTPError, httpx2.NetworkError, httpx2.RemoteProtocolError)):
        api.create_tag(REPO, tag="v1")
    assert set(hub.tags(REPO)) == ({"v1"} if after else set())
    with pytest.raises((HfHubHTTPError, httpx2.NetworkError, httpx2.RemoteProtocolError)):
        api.delete_tag(REPO, tag="v1")
    assert not hub.tags(REPO)
    assert [request.status for request in hub.requests] == [503 if kind == 503 else 0] * 2


def test_an_answer_that_never_comes_does_not_keep_the_server(hub: Hub, api: HfApi) -> None:
    hub.fault = lambda number, method, path: Fault("timeout", after=method == "POST")
    with pytest.raises(httpx2.ReadTimeout):
        api.model_info(REPO, timeout=0.1)
    with httpx2.Client(timeout=0.1, headers={"Authorization": f"Bearer {hub.token}"}) as client:
        with pytest.raises(httpx2.ReadTimeout):
            client.post(f"{hub.url}/api/models/{REPO}/tag/main", json={"tag": "v1"})
        assert set(hub.tags(REPO)) == {"v1"}
        stream = client.stream("GET", f"{hub.url}/api/whoami-v2")
        with pytest.raises(httpx2.ReadTimeout):
            stream.__enter__()
    start = time.monotonic()
    hub.stop()
    assert time.monotonic() - start < 1


def test_a_download_that_is_cut_is_made_whole(hub: Hub, api: HfApi, model: Path, tmp_path: Path) -> None:
    api.upload_folder(repo_id=REPO, folder_path=model)
    hub.reset()
    hub.fault = on_first("GET", WEIGHTS, Fault("cut"))
    down = api.hf_hub_download(REPO, WEIGHTS, cache_dir=tmp_path / "cache")
    assert Path(down).read_bytes() == (model / WEIGHTS).read_bytes()
    # the client resumes after whole blocks of 10 MB only; a smaller file it asks for from the start
    assert [(request.method, request.status) for request in hub.requests] == [("HEAD", 200), ("GET", 0), ("GET", 200)]
    end = httpx2.get(f"{hub.url}/{REPO}/resolve/main/{WEIGHTS}", headers={"Range": "bytes=150000-"})
    assert (end.status_code, end.content) == (206, (model / WEIGHTS).read_bytes()[150_000:])


def test_an_upload_that_is_cut_leaves_nothing_and_is_sent_again(hub: Hub, api: HfApi, model: Path) -> None:
    hub.fault = on_first("PUT", "/lfs-upload/", Fault("cut"))
    api.upload_folder(repo_id=REPO, folder_path=model)
    assert uploaded(hub) == contents(model)
    puts = [(request.status, request.bytes_in) for request in hub.requests if request.method == "PUT"]
    assert puts == [(0, 100_000), (200, 200_000)]


def test_a_corrupt_object_is_refused_and_cannot_be_committed(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(50_000))
    add = CommitOperationAdd("weights.bin", path)
    assert len(add.upload_info.sha256) == 32  # computed now, of what the file holds now
    path.write_bytes(os.urandom(50_000))
    with pytest.raises(RuntimeError, match=r"weights\.bin") as error:
        api.create_commit(REPO, [add], commit_message="Corrupt")
    assert isinstance(error.value.__cause__, BadRequestError)
    assert uploaded(hub) == {}
    assert hub.repo(REPO).objects == {}
    add._is_uploaded = True  # so that the client goes straight to the commit
    add._upload_mode = "lfs"
    with pytest.raises(BadRequestError, match="pointed to a file that does not exist"):
        api.create_commit(REPO, [add], commit_message="Nothing behind it")
    assert hub.commits(REPO) == ["initial commit"]


def test_names_from_outside_are_no_paths_of_the_server(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    before = contents(tmp_path)
    headers = {"Authorization": f"Bearer {hub.token}"}
    for path in ("../evil", "/evil", "a/../../evil", ".git/config", "a//b", "nul\0", ""):
        lines = {"header": {"summary": "x"}, "file": {"path": path, "content": ""}}
        body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines.items())
        answer = httpx2.post(f"{hub.url}/api/models/{REPO}/commit/main", headers=headers, content=body)
        assert answer.status_code == 400, path
        assert "path" in answer.json()["error"]
    for path in (f"/lfs-upload/models/{REPO}/{'0' * 64}/0?signature=x", f"/{REPO}/resolve/main/..%2F..%2Fevil"):
        assert httpx2.request("PUT" if "lfs" in path else "GET", hub.url + path, headers=headers).status_code in (403, 404)
    assert contents(tmp_path) == before


def test_a_snapshot_brings_everything_back(hub: Hub, api: HfApi, model: Path) -> None:
    start, head = hub.snapshot(), hub.head(REPO)
    for _ in range(2):
        hub.reset()
        api.upload_folder(repo_id=REPO, folder_path=model)
        api.create_tag(REPO, tag="v1")
        api.create_repo("acme/other")
        assert sent(hub, "/lfs-upload/", "PUT") == 1, "the object was forgotten with the rest"
        hub.restore(start)
        assert (hub.head(REPO), hub.tags(REPO), uploaded(hub)) == (head, {}, {})
        assert not api.repo_exists("acme/other")


def test_a_request_that_a_snapshot_overtakes_has_no_effect(hub: Hub, api: HfApi) -> None:
    start = hub.snapshot()
    hub.fault = lambda number, method, path: hub.restore(start)
    with pytest.raises(httpx2.RemoteProtocolError):
        api.create_tag(REPO, tag="v1")
    assert not hub.tags(REPO)


def run_client(hub: Hub, folder: Path, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """A client as a process of its own, since it reads its settings at import; the code finds an `api`."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", f"from huggingface_hub import HfApi\napi = HfApi()\n{code}"]
    return subprocess.run(
        command, cwd=folder, env=os.environ | settings | env, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_folder_goes_through_xet_in_several_commits(hub_with_xet: Hub, model: Path, tmp_path: Path) -> None:
    hub = hub_with_xet
    for number in range(300):
        (model / f"{number}.txt").write_text(str(number))
    up = f"""
api.create_repo({REPO!r})
api.upload_folder(repo_id={REPO!r}, folder_path={str(model)!r}, commit_message="Much")
api.snapshot_download({REPO!r}, local_dir="down", allow_patterns={WEIGHTS!r})
"""
    done = run_client(hub, tmp_path, up)
    assert done.returncode == 0, done.stderr
    assert uploaded(hub) == contents(model)
    assert hub.commits(REPO)[:2] == ["Much (part 2)", "Much"]
    assert (sent(hub, "/lfs-upload/", "PUT"), sent(hub, WEIGHTS, "HEAD"), sent(hub, WEIGHTS, "GET")) == (0, 0, 0)
    assert (sent(hub, "/xet-write-token/", "GET"), sent(hub, "/xet-read-token/", "GET")) == (1, 1)
    assert (tmp_path / "down" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    plain = HfApi(endpoint=hub.url, token=hub.token).hf_hub_download(REPO, WEIGHTS, cache_dir=tmp_path / "cache")
    assert Path(plain).read_bytes() == (model / WEIGHTS).read_bytes()
    assert sent(hub, WEIGHTS, "GET") == 1


def test_without_xet_a_client_that_has_it_fails(hub: Hub, api: HfApi, model: Path, tmp_path: Path) -> None:
    up = f"api.upload_folder(repo_id={REPO!r}, folder_path={str(model)!r})"
    done = run_client(hub, tmp_path, up, HF_HUB_DISABLE_XET="0")
    assert done.returncode
    assert "404" in done.stderr
    assert "xet-write-token" in done.stderr
    assert uploaded(hub) == {}
    done = run_client(hub, tmp_path, up, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert uploaded(hub) == contents(model)
