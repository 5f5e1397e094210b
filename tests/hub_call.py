"""One request to the stand-in of the Hugging Face Hub: what it brings, who may do what, and its answer."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.hub_git import Commit
from tests.hub_store import Key, Refused, Repo, Store
from tests.hub_xet import Cas

USER, ORGANISATION = "tester", "quillmere"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back; the body may be a file."""

    status: int = 200
    body: bytes | Path = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    start: int = 0  # of the body, where only its end is asked for

    @classmethod
    def of(cls, value: object, headers: Mapping[str, str] | None = None, status: int = 200) -> "Answer":
        """A JSON answer."""
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | dict(headers or {}))

    @classmethod
    def refusal(cls, refused: Refused) -> "Answer":
        """As the Hub words its errors: in the body for people, in headers for the client."""
        headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
        headers = {name: value.encode("ascii", "replace").decode() for name, value in headers.items()}
        return cls.of({"error": refused.message}, headers | dict(refused.headers), refused.status)

    @property
    def size(self) -> int:
        """Bytes that will be sent."""
        return (len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size) - self.start


@dataclass(frozen=True, slots=True)
class Body:
    """What a request brought, in a file; None: nothing."""

    path: Path | None = None
    size: int = 0
    sha256: str = ""

    def read(self) -> bytes:
        """All of it."""
        return self.path.read_bytes() if self.path else b""


@dataclass(frozen=True, slots=True)
class Site:
    """What all requests share."""

    url: str
    store: Store
    objects: Path  # large objects by their checked sha256
    cas: Cas | None  # None: Xet is off
    tokens: Mapping[str, str]  # token → its role
    secret: bytes = b"signs the addresses for uploads, which carry no token"

    def object(self, key: Key, sha256: str) -> Path:
        """A large object of a repository; the first look at one that came through Xet rebuilds it."""
        path = self.objects / sha256
        if self.cas and not path.exists():
            self.cas.rebuild(key, self.objects)
        return path

    def sign(self, path: str) -> str:
        """What shows that this server gave out an address."""
        return hmac.new(self.secret, path.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """One request: where it goes, who sends it, what it brings."""

    site: Site
    target: str
    names: Mapping[str, str]  # what the route found in the path
    headers: Mapping[str, str]
    body: Body

    @property
    def query(self) -> dict[str, list[str]]:
        """Its parameters; a value may be blank."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def role(self) -> str:
        """What the token allows: nothing, "read" or "write".

        Raises:
            Refused: the token is unknown.
        """
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return ""
        if scheme != "Bearer" or token not in self.site.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.site.tokens[token]

    @property
    def key(self) -> Key:
        """The repository that the path names."""
        return "dataset" if self.names["kind"] else "model", self.names["repo"]

    def writer(self) -> None:
        """Pass only a token that may write.

        Raises:
            Refused: it may not.
        """
        if not self.role:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if self.role != "write":
            raise Refused(403, "You don't have the required permissions: this token can only read")

    def readable(self, key: Key | None = None) -> Repo:
        """The repository, if the token may see it; the Hub does not say whether a hidden one exists.

        Raises:
            Refused: it is missing or hidden.
        """
        role, repo = self.role, self.site.store.repos.get(key or self.key)
        if repo is None or (repo.private and not role):
            raise Refused(404 if role else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self) -> Repo:
        """The repository, if the token may change it.

        Raises:
            Refused: it may not, or there is none.
        """
        repo = self.readable()
        self.writer()
        return repo

    def revision(self) -> tuple[Repo, Commit]:
        """The repository and the commit that the path names."""
        repo = self.readable()
        return repo, repo.commit(self.names["rev"])

    def json(self) -> dict[str, Any]:
        """The body as `parsed` takes it."""
        return parsed(self.body.read() or b"null")


def parsed(text: bytes) -> dict[str, Any]:
    """A JSON object; null is an empty one.

    Raises:
        Refused: it is something else.
    """
    try:
        value = json.loads(text)
    except ValueError:
        raise Refused(400, "The body is not JSON") from None
    if isinstance(value, dict | None):
        return value or {}
    raise Refused(400, "The body is no JSON object")


def page_of(call: Call, key: Key) -> str:
    """A repository's address for people."""
    return f"{call.site.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"
