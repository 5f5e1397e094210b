"""What the stand-in of the Hugging Face Hub keeps: repositories with commits, refs, large objects, pull requests.

Every value is immutable and a change replaces it, so that a copy of `Store.repos` is a copy of the whole state.
"""

import base64
import binascii
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.hub_git import Blob, Commit, parents, stamp

Key = tuple[str, str]  # "model" or "dataset", "owner/name"
Line = tuple[str, Mapping[str, Any]]  # of a commit: what to do, with what
MAIN = "refs/heads/main"
FIRST_FILE = (
    ".gitattributes",
    b"*.bin filter=lfs diff=lfs merge=lfs -text\n"
    b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
    b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_SHA = re.compile(r"[0-9a-f]{7,40}")  # the Hub takes abbreviated ones too
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Refused(Exception):
    """The Hub's refusal of a request: its status, its words, its `X-Error-Code` if it has one."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


@dataclass(frozen=True, slots=True)
class Discussion:
    """A discussion, or a pull request, whose commits are at `refs/pr/NUM`."""

    num: int
    title: str
    status: str  # draft, open, closed, merged
    author: str
    seconds: int
    fork: str = ""  # the commit of main that a pull request started from; empty: it is no pull request
    merged: str = ""  # the commit that merged it
    events: tuple[Mapping[str, Any], ...] = ()

    @property
    def ref(self) -> str:
        """Where its commits are."""
        return f"refs/pr/{self.num}"


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository."""

    kind: str
    id: str
    private: bool
    seconds: int
    gated: str | bool = False
    refs: Mapping[str, str] = field(default_factory=dict)  # full name → commit
    commits: Mapping[str, Commit] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)  # sha256 of an uploaded large object → its size
    discussions: tuple[Discussion, ...] = ()

    @property
    def key(self) -> Key:
        """What the store knows it by."""
        return self.kind, self.id

    @property
    def head(self) -> Commit:
        """The last commit of main."""
        return self.commits[self.refs[MAIN]]

    def named(self, prefix: str) -> dict[str, str]:
        """Refs below `prefix` by their short names."""
        return {name.removeprefix(prefix): sha for name, sha in self.refs.items() if name.startswith(prefix)}

    def commit(self, revision: str) -> Commit:
        """The commit that a branch, tag, ref or (abbreviated) hash means.

        Raises:
            Refused: nothing has that name.
        """
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if _SHA.fullmatch(revision):
            for sha, commit in self.commits.items():
                if sha.startswith(revision):
                    return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def branch(self, revision: str) -> str:
        """The full name of a ref that commits may be added to."""
        for name in (f"refs/heads/{revision}", revision):
            if name in self.refs and not name.startswith("refs/tags/"):
                return name
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, commit: Commit) -> Iterator[Commit]:
        """A commit and those before it, newest first."""
        while True:
            yield commit
            if not commit.parent:
                return
            commit = self.commits[commit.parent]

    def discussion(self, num: int) -> Discussion:
        """One by its number.

        Raises:
            Refused: there is none.
        """
        if not 1 <= num <= len(self.discussions):
            raise Refused(404, "Discussion not found")
        return self.discussions[num - 1]

    def conflicts(self, pull: Discussion) -> list[str]:
        """Paths that both main and the pull request changed since it started, differently."""
        fork, ours, theirs = self.commits[pull.fork].files, self.head.files, self.commits[self.refs[pull.ref]].files
        changed = [path for path in {*fork, *theirs} if fork.get(path) != theirs.get(path)]
        return sorted(path for path in changed if ours.get(path) not in (fork.get(path), theirs.get(path)))


def checked_sha256(text: object) -> str:
    """A sha256 in hexadecimal, which may name a file.

    Raises:
        Refused: it is something else.
    """
    if isinstance(text, str) and _SHA256.fullmatch(text):
        return text
    raise Refused(400, "oid must be a sha256 in hexadecimal")


class Store:
    """All repositories. Not thread-safe: the server calls it under its lock."""

    def __init__(self) -> None:
        self.repos: dict[Key, Repo] = {}

    def create(self, key: Key, private: bool, author: str) -> Repo:
        """A new repository with one commit, as the Hub makes it.

        Raises:
            Refused: the name is taken or not allowed.
        """
        if key in self.repos:
            raise Refused(409, f"You already created this {key[0]} repo: {key[1]}")
        if not all(_NAME.fullmatch(part) and not part.endswith((".git", ".lock")) for part in key[1].split("/")):
            raise Refused(400, f"Invalid repo name: {key[1]}")
        path, content = FIRST_FILE
        first = Commit("", "initial commit", "", author, int(time.time()), {path: Blob(content, len(content))})
        return self._put(Repo(*key, private, first.seconds, refs={MAIN: first.sha}, commits={first.sha: first}))

    def settings(self, repo: Repo, private: bool, gated: str | bool) -> None:
        """Change who may see it."""
        self._put(replace(repo, private=private, gated=gated))

    def add_object(self, repo: Repo, sha256: str, size: int) -> None:
        """Remember that a large object, whose bytes were checked, belongs to a repository."""
        self._put(replace(repo, objects={**repo.objects, sha256: size}))

    def add_ref(self, repo: Repo, prefix: str, name: str, sha: str) -> None:
        """A new branch or tag.

        Raises:
            Refused: it is there already, or its name is not allowed.
        """
        strange = not _REF.fullmatch(name) or ".." in name or "//" in name or name.endswith(("/", ".", ".lock"))
        if strange or name.startswith("refs/"):
            raise Refused(400, f"Invalid reference for a branch or tag: {name}")
        if prefix + name in repo.refs:
            raise Refused(409, f"Reference {prefix}{name} already exists")
        self._put(replace(repo, refs={**repo.refs, prefix + name: sha}))

    def remove_ref(self, repo: Repo, name: str) -> None:
        """Forget a branch or tag; its commits stay.

        Raises:
            Refused: it is main, or not there.
        """
        if name == MAIN:
            raise Refused(403, f"Cannot delete {MAIN}")
        if name not in repo.refs:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        self._put(replace(repo, refs={ref: sha for ref, sha in repo.refs.items() if ref != name}))

    def commit(self, repo: Repo, ref: str, header: Mapping[str, Any], lines: Iterable[Line], author: str) -> Commit:
        """All of `lines` or nothing, on top of `ref`. The same files again make a commit too, as on the Hub.

        Raises:
            Refused: `parentCommit` of the header is not the head, or a line cannot be done.
        """
        parent = repo.refs[ref]
        if not parent.startswith(str(header.get("parentCommit") or parent)):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = _changed(repo, parent, lines)
        title = str(header.get("summary") or "")
        if not title:
            raise Refused(400, "The commit needs a summary")
        return self._advance(repo, ref, title, str(header.get("description") or ""), files, author)

    def open_discussion(self, repo: Repo, title: str, status: str, fork: str, comment: str, author: str) -> Discussion:
        """A new one; it is a pull request if it starts from a commit `fork`."""
        num, seconds = len(repo.discussions) + 1, int(time.time())
        events = (_event(0, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": comment}}),)
        new = Discussion(num, title, status, author, seconds, fork, events=events)
        refs = {**repo.refs, new.ref: fork} if fork else repo.refs
        self._put(replace(repo, refs=refs, discussions=(*repo.discussions, new)))
        return new

    def set_status(self, repo: Repo, discussion: Discussion, status: str, author: str) -> Mapping[str, Any]:
        """Open or close it; returns the event.

        Raises:
            Refused: it is merged already.
        """
        if discussion.status == "merged":
            raise Refused(400, "This pull request is merged")
        event = _event(len(discussion.events), "status-change", author, {"status": status})
        self._replace_discussion(repo, replace(discussion, status=status, events=(*discussion.events, event)))
        return event

    def merge(self, repo: Repo, pull: Discussion, author: str) -> Commit:
        """One commit on main with what the pull request changed.

        Raises:
            Refused: it is no open pull request (a draft must be opened first), or main changed the same files.
        """
        if not pull.fork or pull.status != "open":
            raise Refused(400, f"Only an open pull request can be merged; this is {pull.status}")
        if found := repo.conflicts(pull):
            raise Refused(409, f"This pull request has conflicts: {', '.join(found)}")
        fork, theirs = repo.commits[pull.fork].files, repo.commits[repo.refs[pull.ref]]
        kept = {path: blob for path, blob in repo.head.files.items() if fork.get(path) == theirs.files.get(path)}
        new = {path: blob for path, blob in theirs.files.items() if fork.get(path) != blob}
        past = {commit.sha for commit in repo.history(repo.head)}
        inside = [f"- {commit.title} ({commit.sha})" for commit in repo.history(theirs) if commit.sha not in past]
        made = self._advance(repo, MAIN, f"{pull.title} (#{pull.num})", "\n".join(inside[::-1]), kept | new, author)
        event = _event(len(pull.events), "status-change", author, {"status": "merged"})
        merged = replace(pull, status="merged", merged=made.sha, events=(*pull.events, event))
        self._replace_discussion(self.repos[repo.key], merged)
        return made

    def _advance(self, repo: Repo, ref: str, title: str, message: str, files: Mapping[str, Blob], author: str) -> Commit:
        made = Commit(repo.refs[ref], title, message, author, int(time.time()), files)
        self._put(replace(repo, refs={**repo.refs, ref: made.sha}, commits={**repo.commits, made.sha: made}))
        return made

    def _replace_discussion(self, repo: Repo, new: Discussion) -> None:
        self._put(replace(repo, discussions=tuple(new if old.num == new.num else old for old in repo.discussions)))

    def _put(self, repo: Repo) -> Repo:
        self.repos[repo.key] = repo
        return repo


def _event(number: int, kind: str, author: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    now = stamp(int(time.time()))
    return {"id": f"{number:024x}", "type": kind, "createdAt": now, "author": {"name": author}, "data": data}


def _changed(repo: Repo, parent: str, lines: Iterable[Line]) -> dict[str, Blob]:
    files = dict(repo.commits[parent].files)
    for action, value in lines:
        path = _checked_path(value.get("path"))
        if action == "file":
            files[path] = _regular(path, value)
        elif action == "lfsFile":
            files[path] = _pointer(repo, path, value)
        elif action == "deletedFile":
            _remove(files, path, [path] if path in files else [])
        elif action == "deletedFolder":
            _remove(files, path, [name for name in files if name.startswith(f"{path}/")])
        else:
            raise Refused(400, f"Unknown commit operation: {action}")
    for path in files:
        if twice := [parent for parent in parents(path) if parent in files]:
            raise Refused(400, f"{twice[0]} would be a file and a folder")
    return files


def _checked_path(path: object) -> str:
    text = path.rstrip("/") if isinstance(path, str) else ""
    if not text or any(part in ("", ".", "..", ".git") for part in text.split("/")) or not text.isprintable():
        raise Refused(400, f"Invalid path in repo: {path!r}")
    return text


def _regular(path: str, value: Mapping[str, Any]) -> Blob:
    try:
        content = base64.b64decode(value["content"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise Refused(400, f"The content of {path} is not base64") from None
    return Blob(content, len(content))


def _pointer(repo: Repo, path: str, value: Mapping[str, Any]) -> Blob:
    sha256 = checked_sha256(value.get("oid"))
    size = repo.objects.get(sha256)
    if size is None or value.get("size", size) != size:  # a copied file comes without its size
        raise Refused(400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}")
    return Blob.large(sha256, size)


def _remove(files: dict[str, Blob], path: str, gone: list[str]) -> None:
    if not gone:
        raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    for name in gone:
        del files[name]
