"""The requests that the stand-in of the Hugging Face Hub answers, and how: one function each, named in `ROUTES`."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests import hub_files
from tests.hub_call import ORGANISATION, USER, Answer, Body, Call, Site, page_of
from tests.hub_git import Blob, Commit, directories, parents, stamp
from tests.hub_store import MAIN, Discussion, Key, Refused, Repo

PAGE = 1000  # entries of a tree in one answer, and a twentieth of it commits, as on the Hub


def whoami(call: Call) -> Answer:
    if not call.role:
        raise Refused(401, "Invalid username or password.")
    token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": call.role}}
    return Answer.of(
        {"type": "user", "id": "0" * 24, "name": USER, "fullname": USER, "orgs": [{"name": ORGANISATION}], "auth": token}
    )


def harnesses(call: Call) -> Answer:
    return Answer.of({"standardEnvVars": [], "harnesses": {}})


def validate_yaml(call: Call) -> Answer:
    return Answer.of({"errors": [], "warnings": []})


def _named(call: Call) -> tuple[Key, dict[str, Any]]:
    value = call.json()
    kind = value.get("type") or "model"
    if kind not in ("model", "dataset"):
        raise Refused(400, f"The stand-in keeps models and datasets, no {kind}")
    return (kind, f"{value.get('organization') or USER}/{value.get('name')}"), value


def create_repo(call: Call) -> Answer:
    call.writer()
    key, value = _named(call)
    place = {"url": page_of(call, key), "name": key[1]}
    try:
        call.site.store.create(key, value.get("visibility") == "private" or value.get("private") is True, USER)
    except Refused as refused:
        if refused.status != 409:
            raise
        # create_repo(exist_ok=True) reads the address out of this refusal
        return Answer.of({"error": refused.message} | place, {"X-Error-Message": refused.message}, 409)
    return Answer.of(place)


def delete_repo(call: Call) -> Answer:
    key, _ = _named(call)
    repo = call.readable(key)
    call.writer()
    del call.site.store.repos[repo.key]
    return Answer()


def settings(call: Call) -> Answer:
    repo, value = call.writable(), call.json()
    visibility = value.get("visibility")
    private = visibility == "private" if visibility else bool(value.get("private", repo.private))
    call.site.store.settings(repo, private, value.get("gated", repo.gated))
    return Answer()


def info(call: Call) -> Answer:
    repo = call.readable()
    commit = repo.commit(call.names["rev"]) if "rev" in call.names else repo.head
    blobs = "blobs" in call.query
    siblings = [{"rfilename": path} | (_sibling(blob) if blobs else {}) for path, blob in sorted(commit.files.items())]
    known: dict[str, object] = {
        "author": repo.id.partition("/")[0],
        "sha": commit.sha,
        "createdAt": stamp(repo.seconds),
        "lastModified": stamp(commit.seconds),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": sum(blob.size for blob in commit.files.values()),
        "siblings": siblings,
    }
    wanted = call.query.get("expand", list(known))
    return Answer.of({"id": repo.id} | {name: value for name, value in known.items() if name in wanted})


def _sibling(blob: Blob) -> dict[str, object]:
    lfs = {"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.git)}} if blob.sha256 else {}
    return {"size": blob.size, "blobId": blob.oid} | lfs


def auth_check(call: Call) -> Answer:
    call.readable()
    return Answer()


def write_check(call: Call) -> Answer:
    call.writable()
    return Answer()


def refs(call: Call) -> Answer:
    repo = call.readable()

    def listed(prefix: str, hidden: str) -> list[dict[str, str]]:
        found = sorted((ref, sha) for ref, sha in repo.refs.items() if ref.startswith(prefix))
        return [{"name": ref.removeprefix(hidden), "ref": ref, "targetCommit": sha} for ref, sha in found]

    named = {"branches": listed("refs/heads/", "refs/heads/"), "converts": [], "tags": listed("refs/tags/", "refs/tags/")}
    return Answer.of(named | ({"pullRequests": listed("refs/pr/", "")} if "include_prs" in call.query else {}))


def _paged(call: Call, entries: list[dict[str, Any]], size: int) -> Answer:
    start = int(call.query.get("cursor", ["0"])[0])
    parts = urlsplit(call.target)
    kept = [f"{name}={quote(value)}" for name, values in call.query.items() if name != "cursor" for value in values]
    after = "&".join([*kept, f"cursor={start + size}"])
    more = {"Link": f'<{call.site.url}{parts.path}?{after}>; rel="next"'} if start + size < len(entries) else {}
    return Answer.of(entries[start : start + size], more)


def commits(call: Call) -> Answer:
    repo, last = call.revision()
    listed = [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": commit.message,
            "date": stamp(commit.seconds),
            "authors": [{"user": commit.author}],
        }
        for commit in repo.history(last)
    ]
    return _paged(call, listed, PAGE // 20)


def _file(call: Call, repo: Repo, path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.git)}
        if call.site.cas and (known := call.site.cas.known(repo.key).get(blob.sha256)):
            entry["xetHash"] = known.hash
    return entry


def _entries(call: Call, repo: Repo, commit: Commit) -> dict[str, dict[str, Any]]:
    folders = directories(commit.files)
    listed = {path: {"type": "directory", "oid": oid, "size": 0, "path": path} for path, oid in folders.items() if path}
    return listed | {path: _file(call, repo, path, blob) for path, blob in commit.files.items()}


def tree(call: Call) -> Answer:
    repo, commit = call.revision()
    above, deep = call.names.get("path", ""), call.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries = _entries(call, repo, commit)
    if above and entries.get(above, {}).get("type") != "directory":
        raise Refused(404, f"{above} does not exist on {call.names['rev']}", "EntryNotFound")
    inside = [path for path in sorted(entries) if (above in parents(path) if above else True)]
    return _paged(call, [entries[path] for path in inside if deep or path.rpartition("/")[0] == above], PAGE)


def paths_info(call: Call) -> Answer:
    repo, commit = call.revision()
    entries = _entries(call, repo, commit)
    wanted = parse_qs(call.body.read().decode()).get("paths", [])
    return Answer.of([entries[path] for path in wanted if path in entries])


def create_branch(call: Call) -> Answer:
    repo = call.writable()
    start = repo.commit(str(call.json().get("startingPoint") or "main"))
    call.site.store.add_ref(repo, "refs/heads/", call.names["name"], start.sha)
    return Answer()


def delete_branch(call: Call) -> Answer:
    call.site.store.remove_ref(call.writable(), f"refs/heads/{call.names['name']}")
    return Answer()


def create_tag(call: Call) -> Answer:
    repo = call.writable()
    target = repo.commit(call.names["name"])
    call.site.store.add_ref(repo, "refs/tags/", str(call.json().get("tag")), target.sha)
    return Answer()


def delete_tag(call: Call) -> Answer:
    call.site.store.remove_ref(call.writable(), f"refs/tags/{call.names['name']}")
    return Answer()


def _summary(repo: Repo, found: Discussion) -> dict[str, Any]:
    return {
        "num": found.num,
        "title": found.title,
        "status": found.status,
        "author": {"name": found.author},
        "createdAt": stamp(found.seconds),
        "isPullRequest": bool(found.fork),
        "repo": {"name": repo.id, "type": repo.kind},
    }


def discussions(call: Call) -> Answer:
    repo = call.readable()
    kind, status, author = (call.query.get(name, [""])[0] for name in ("type", "status", "author"))
    found = [
        _summary(repo, each)
        for each in reversed(repo.discussions)
        if kind in ("", "all", "pull_request" if each.fork else "discussion")
        and status in ("", "all", "open" if each.status in ("open", "draft") else "closed")
        and author in ("", each.author)
    ]
    return Answer.of({"discussions": found, "count": len(found), "start": 0})


def open_discussion(call: Call) -> Answer:
    repo, value = call.writable(), call.json()
    title, comment, pull = str(value.get("title", "")), str(value.get("description", "")), value.get("pullRequest") is True
    if len(title) < 3:
        raise Refused(400, "The title needs three characters")
    status, fork = ("draft", repo.head.sha) if pull else ("open", "")
    opened = call.site.store.open_discussion(repo, title, status, fork, comment, USER)
    return Answer.of({"num": opened.num, "url": f"{page_of(call, repo.key)}/discussions/{opened.num}", "pullRequest": pull})


def discussion(call: Call) -> Answer:
    repo = call.readable()
    found = repo.discussion(int(call.names["num"]))
    answer = _summary(repo, found) | {"events": list(found.events)}
    if found.fork:
        changes = {"base": MAIN} | ({"mergeCommitId": found.merged} if found.merged else {})
        answer |= {"changes": changes, "filesWithConflicts": [] if found.merged else repo.conflicts(found)}
    return Answer.of(answer)


def set_status(call: Call) -> Answer:
    repo, status = call.writable(), call.json().get("status")
    if status not in ("open", "closed"):
        raise Refused(400, "status must be open or closed")
    return Answer.of({"newStatus": call.site.store.set_status(repo, repo.discussion(int(call.names["num"])), status, USER)})


def merge(call: Call) -> Answer:
    repo = call.writable()
    call.site.store.merge(repo, repo.discussion(int(call.names["num"])), USER)
    return Answer()


Handler = Callable[[Call], Answer]
_REPO = r"/(?:models|(?P<kind>datasets))/(?P<repo>[^/]+/[^/]+)"
_API = f"/api{_REPO}"
_SITE = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)"
_LFS = _SITE + r"\.git/info/lfs"
_REV, _NAME, _NUM = r"/(?P<rev>[^/]+)", r"/(?P<name>[^/]+)", r"/(?P<num>[0-9]{1,9})"
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = [
    (method, re.compile(path), handler)
    for method, path, handler in (
        ("GET", "/api/whoami-v2", whoami),
        ("GET", "/api/agent-harnesses", harnesses),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("POST", "/api/repos/create", create_repo),
        ("DELETE", "/api/repos/delete", delete_repo),
        ("GET", _API, info),
        ("GET", f"{_API}/revision{_REV}", info),
        ("GET", f"{_API}/auth-check", auth_check),
        ("GET", f"{_API}/auth-check/write", write_check),
        ("PUT", f"{_API}/settings", settings),
        ("GET", f"{_API}/refs", refs),
        ("GET", f"{_API}/commits{_REV}", commits),
        ("GET", f"{_API}/tree{_REV}(?:/(?P<path>.+))?", tree),
        ("POST", f"{_API}/paths-info{_REV}", paths_info),
        ("POST", f"{_API}/branch{_NAME}", create_branch),
        ("DELETE", f"{_API}/branch{_NAME}", delete_branch),
        ("POST", f"{_API}/tag{_NAME}", create_tag),
        ("DELETE", f"{_API}/tag{_NAME}", delete_tag),
        ("POST", f"{_API}/preupload{_REV}", hub_files.preupload),
        ("POST", f"{_API}/commit{_REV}", hub_files.commit),
        ("GET", f"{_API}/discussions", discussions),
        ("POST", f"{_API}/discussions", open_discussion),
        ("GET", f"{_API}/discussions{_NUM}", discussion),
        ("POST", f"{_API}/discussions{_NUM}/status", set_status),
        ("POST", f"{_API}/discussions{_NUM}/merge", merge),
        ("GET", f"{_API}/xet-(?P<right>read|write)-token{_REV}", hub_files.xet_token),
        ("POST", f"{_LFS}/objects/batch", hub_files.lfs_batch),
        ("POST", f"{_LFS}/verify", hub_files.lfs_verify),
        ("PUT", f"/lfs-upload{_REPO}/(?P<oid>[0-9a-f]{{64}})/(?P<size>[0-9]{{1,18}})", hub_files.lfs_upload),
        ("GET", f"{_SITE}/resolve{_REV}/(?P<path>.+)", hub_files.resolve),
    )
]


def answer(site: Site, method: str, target: str, headers: Mapping[str, str], body: Body) -> Answer:
    """What the Hub says to a request. A refusal leaves everything as it was. HEAD is GET without its body."""
    path, before = urlsplit(target).path, dict(site.store.repos)
    for verb, pattern, handler in ROUTES:
        if verb == ("GET" if method == "HEAD" else method) and (found := pattern.fullmatch(path)):
            names = {name: unquote(value) if value else "" for name, value in found.groupdict().items()}
            try:
                return handler(Call(site, target, names, headers, body))
            except Refused as refused:
                site.store.repos = before
                return Answer.refusal(refused)
    return Answer.refusal(Refused(404, "Sorry, we can't find the page you are looking for."))
