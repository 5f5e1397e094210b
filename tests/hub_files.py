"""What the stand-in of the Hugging Face Hub does with files: uploads in their steps, commits, downloads."""

import base64
import binascii
import hmac
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.hub_call import USER, Answer, Call, page_of, parsed
from tests.hub_git import Blob, Commit
from tests.hub_store import Line, Refused, Repo, checked_sha256

LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin")
LARGE_BYTES, LARGE_BYTES_BY_SUFFIX = 10_000_000, 10_000
_RANGE = re.compile(r"bytes=([0-9]{1,18})-")


def preupload(call: Call) -> Answer:
    repo = call.writable()
    commit = repo.commit(call.names["rev"])
    files = call.json().get("files")
    if not isinstance(files, list):
        raise Refused(400, "files must be a list")
    return Answer.of({"files": [_upload_mode(commit, file) for file in files]})


def _upload_mode(commit: Commit, file: Mapping[str, Any]) -> dict[str, Any]:
    path, size = str(file["path"]), int(file["size"])
    try:
        binary = b"\0" in base64.b64decode(file["sample"], validate=True)
    except binascii.Error:
        raise Refused(400, f"The sample of {path} is not base64") from None
    large = binary or size > LARGE_BYTES or (size > LARGE_BYTES_BY_SUFFIX and path.endswith(LARGE_SUFFIXES))
    there = {"oid": commit.files[path].etag} if path in commit.files else {}
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} | there


def commit(call: Call) -> Answer:
    repo = call.writable()
    header, lines = _commit_lines(call.body.read())
    store, page = call.site.store, page_of(call, repo.key)
    ref, pull = "", {}
    if "create_pr" in call.query:
        fork = repo.commit(str(header.get("parentCommit") or call.names["rev"])).sha
        title, comment = str(header.get("summary")), str(header.get("description") or "")
        opened = store.open_discussion(repo, title, "open", fork, comment, USER)
        ref, pull = opened.ref, {"pullRequestUrl": f"{page}/discussions/{opened.num}"}
    _recall_xet(call, lines)
    repo = store.repos[repo.key]
    made = store.commit(repo, ref or repo.branch(call.names["rev"]), header, lines, USER)
    return Answer.of({"success": True, "commitOid": made.sha, "commitUrl": f"{page}/commit/{made.sha}"} | pull)


def _commit_lines(body: bytes) -> tuple[dict[str, Any], list[Line]]:
    entries = [parsed(line) for line in body.splitlines() if line]
    if any(not isinstance(line.get("value"), dict) for line in entries) or not entries or entries[0].get("key") != "header":
        raise Refused(400, "A commit is a header and operations, one JSON object a line")
    return entries[0]["value"], [(str(line.get("key")), line["value"]) for line in entries[1:]]


def _recall_xet(call: Call, lines: list[Line]) -> None:
    """Take over what the commit names and the client brought through Xet instead of LFS."""
    site = call.site
    if not site.cas:
        return
    known = site.cas.known(call.key)
    for sha256 in {checked_sha256(value.get("oid")) for action, value in lines if action == "lfsFile"}:
        repo = site.store.repos[call.key]
        if sha256 in known and sha256 not in repo.objects:
            site.store.add_object(repo, sha256, known[sha256].size)


def lfs_batch(call: Call) -> Answer:
    repo, value = call.writable(), call.json()
    if value.get("operation") != "upload" or not isinstance(value.get("objects"), list):
        raise Refused(422, "The stand-in only takes uploads")
    prefix = call.site.url + urlsplit(call.target).path.removesuffix("/objects/batch")
    objects = []
    for item in value["objects"]:
        oid, size = checked_sha256(item.get("oid")), int(item["size"])
        path = f"/lfs-upload/{repo.kind}s/{repo.id}/{oid}/{size}"
        upload = {"href": f"{call.site.url}{path}?signature={call.site.sign(path)}"}
        actions = {"upload": upload, "verify": {"href": f"{prefix}/verify"}}
        objects.append({"oid": oid, "size": size} | ({} if repo.objects.get(oid) == size else {"actions": actions}))
    return Answer.of({"transfer": "basic", "objects": objects})


def lfs_upload(call: Call) -> Answer:
    path = urlsplit(call.target).path
    if not hmac.compare_digest(call.query.get("signature", [""])[0], call.site.sign(path)):
        raise Refused(403, "SignatureDoesNotMatch")
    repo = call.site.store.repos.get(call.key)
    if repo is None:
        raise Refused(404, "Repository not found", "RepoNotFound")
    body, oid, size = call.body, checked_sha256(call.names["oid"]), int(call.names["size"])
    if (body.sha256, body.size) != (oid, size) or not body.path:
        raise Refused(400, f"The body has {body.size} bytes of sha256 {body.sha256}, not {size} of {oid}")
    body.path.replace(call.site.objects / oid)
    call.site.store.add_object(repo, oid, size)
    return Answer()


def lfs_verify(call: Call) -> Answer:
    repo, value = call.writable(), call.json()
    found = repo.objects.get(checked_sha256(value.get("oid")))
    if found is None or found != value.get("size"):
        raise Refused(404 if found is None else 422, "No such object, or of another size")
    return Answer()


def resolve(call: Call) -> Answer:
    repo, commit = call.revision()
    path, origin = call.names["path"], {"X-Repo-Commit": commit.sha}
    blob = commit.files.get(path)
    if blob is None:
        raise Refused(404, "Entry not found", "EntryNotFound", origin)
    headers = origin | {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if blob.sha256:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)} | _xet_links(call, repo, blob, commit)
    body = call.site.object(repo.key, blob.sha256) if blob.sha256 else blob.git
    asked = _RANGE.fullmatch(call.headers.get("Range", ""))
    if not asked:
        return Answer(200, body, headers)
    start = int(asked[1])
    if start >= blob.size:
        raise Refused(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{blob.size}"})
    return Answer(206, body, headers | {"Content-Range": f"bytes {start}-{blob.size - 1}/{blob.size}"}, start)


def _xet_links(call: Call, repo: Repo, blob: Blob, commit: Commit) -> dict[str, str]:
    known = call.site.cas.known(repo.key).get(blob.sha256) if call.site.cas else None
    if not known:
        return {}
    token = f"{call.site.url}/api/{repo.kind}s/{repo.id}/xet-read-token/{commit.sha}"
    return {"X-Xet-Hash": known.hash, "Link": f'<{token}>; rel="xet-auth"'}


def xet_token(call: Call) -> Answer:
    repo = call.writable() if call.names["right"] == "write" else call.readable()
    if not call.site.cas:
        raise Refused(404, "Xet is off")
    token, until, place = "xet", int(time.time()) + 3600, call.site.cas.url(repo.key)
    headers = {"X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until), "X-Xet-Cas-Url": place}
    return Answer.of({"accessToken": token, "exp": until, "casUrl": place}, headers)
