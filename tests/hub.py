"""A loopback stand-in of the Hugging Face Hub that the real client talks to: git-like, with faults on demand.

    with Hub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        hub.fault = lambda number, method, path: Fault(503) if method == "PUT" else None

What it answers is in tests/hub_api.py and tests/hub_files.py, what it keeps in tests/hub_store.py. Where it is not the Hub:
large files come from itself instead of a redirect to a CDN; any namespace belongs to its one user; a gated repository is open;
`.gitignore` is not obeyed. A commit that changes nothing makes a commit (as on the Hub); a draft must be opened before it is
merged, which makes one commit of it.
"""

import contextlib
import hashlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Literal

from tests.hub_api import answer
from tests.hub_call import Answer, Body, Site
from tests.hub_store import Key, Refused, Repo, Store
from tests.hub_xet import Cas

BLOCK = 1 << 16
_MESSAGES = {
    401: Refused(401, "Invalid credentials in Authorization header"),
    403: Refused(403, "You don't have the rights to do this"),
    404: Refused(404, "Repository not found", "RepoNotFound"),
    409: Refused(409, "Conflict"),
    412: Refused(412, "A commit has happened since. Please refresh and try again."),
    429: Refused(429, "Too many requests", headers={"Retry-After": "1"}),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One that came; `path` is as it was sent, with its query."""

    method: str
    path: str
    status: int  # 0: no whole answer was sent
    bytes_in: int  # of its body


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a request.

    `kind` is a status; or "cut": the connection closes after half of the request's body, or of the answer if the request has
    none (nothing comes where half of it would be nothing); or "timeout": no answer comes, and a client without a limit waits
    until the server stops. With `after` the request takes effect first, and "cut" halves the answer.
    """

    kind: int | Literal["cut", "timeout"]
    after: bool = False


FaultRule = Callable[[int, str, str], Fault | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all repositories at one moment."""

    repos: Mapping[Key, Repo]


@dataclass(slots=True)
class _Log:
    """Requests since a reset, in the order in which they came; one under way has no entry yet."""

    entries: list[Request | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arrived(self) -> int:
        with self.lock:
            self.entries.append(None)
            return len(self.entries)

    def done(self, number: int, method: str, path: str, status: int, bytes_in: int) -> None:
        self.entries[number - 1] = Request(method, path, status, bytes_in)


class Hub:
    """A server on a free port of 127.0.0.1 while its context is open. Repositories live as long as the object."""

    token = "hf_standin_write_token"
    read_token = "hf_standin_read_token"

    def __init__(self, folder: Path, xet: bool = False) -> None:
        self.fault: FaultRule | None = None
        self._folder, self._xet = folder, xet
        self._store, self._log, self._lock = Store(), _Log(), threading.RLock()
        self._numbers, self._epoch = count(), 0
        self._open: dict[socket.socket, threading.Thread] = {}
        self._crashes: list[BaseException] = []
        for name in ("objects", "incoming"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Hub":
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        tokens = {self.token: "write", self.read_token: "read"}
        cas = Cas(self._folder / "xet") if self._xet else None
        self._site = Site(self.url, self._store, self._folder / "objects", cas, tokens)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()
        if self._crashes and not error:
            raise self._crashes[0]

    def stop(self) -> None:
        """Close every connection and the port."""
        self._server.shutdown()
        self._server.server_close()
        for connection, thread in list(self._open.items()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(10)
        self._thread.join(10)

    @property
    def requests(self) -> list[Request]:
        """What came since the last reset, in order."""
        return [entry for entry in list(self._log.entries) if entry]

    def reset(self) -> None:
        """Forget requests, their count and the fault; the repositories stay."""
        self._log, self.fault = _Log(), None

    def snapshot(self) -> Snapshot:
        """The state to return to with `restore`."""
        with self._lock:
            return Snapshot(dict(self._store.repos))

    def restore(self, snapshot: Snapshot) -> None:
        """As it was: objects that were uploaded later must be uploaded again. What Xet's storage got stays there.

        A request that is still under way, of a client that gave up waiting, is dropped without effect.
        """
        with self._lock:
            self._store.repos, self._epoch = dict(snapshot.repos), self._epoch + 1

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """A repository; KeyError if there is none."""
        with self._lock:
            return self._store.repos[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """Path → bytes at a revision."""
        repo = self.repo(repo_id, repo_type)
        with self._lock:
            return {
                path: self._site.object(repo.key, blob.sha256).read_bytes() if blob.sha256 else blob.git
                for path, blob in repo.commit(revision).files.items()
            }

    def head(self, repo_id: str, branch: str = "main", repo_type: str = "model") -> str:
        """The last commit of a branch."""
        return self.branches(repo_id, repo_type)[branch]

    def branches(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """Branch → its last commit."""
        return self.repo(repo_id, repo_type).named("refs/heads/")

    def tags(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """Tag → commit."""
        return self.repo(repo_id, repo_type).named("refs/tags/")

    def private(self, repo_id: str, repo_type: str = "model") -> bool:
        """Whether it can be read without a token."""
        return self.repo(repo_id, repo_type).private

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[str]:
        """Titles, newest first."""
        repo = self.repo(repo_id, repo_type)
        return [commit.title for commit in repo.history(repo.commit(revision))]


class _Server(ThreadingTCPServer):
    """Not an HTTPServer, which would look up its own name first."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing; everything else is a fault of the stand-in, which its context raises."""
        error = sys.exception()
        if error and not isinstance(error, ConnectionError):
            self.hub._crashes.append(error)
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.hub._open[self.connection] = threading.current_thread()

    def finish(self) -> None:
        del self.server.hub._open[self.connection]
        with contextlib.suppress(OSError):  # what was not sent to a client that went away
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def _serve(self) -> None:
        hub, log = self.server.hub, self.server.hub._log
        number, self.epoch = log.arrived(), hub._epoch
        fault = hub.fault(number, self.command, self.path) if hub.fault else None
        note = partial(log.done, number, self.command, self.path)
        if not fault or fault.after or isinstance(fault.kind, int):
            self._reply(fault, note)
        elif fault.kind == "timeout":
            note(0, 0)
            self._hang()
        elif self._has_body or self.command != "GET":
            note(0, sum(map(len, self._half())))
            self.close_connection = True
        else:
            self._reply(fault, note)

    def _reply(self, fault: Fault | None, note: Callable[[int, int], None]) -> None:
        """Take the whole body, do what is asked unless a status stands in the way, and answer as far as the fault lets it."""
        kind = fault.kind if fault else None
        with self._received() as body:
            if isinstance(kind, int):
                if fault and fault.after:
                    self._answered(body)
                reply = _refusal(kind)
            else:
                reply = self._answered(body)
        note(0 if kind in ("cut", "timeout") else reply.status, body.size)
        if kind == "timeout":
            self._hang()
        else:
            self._send(reply, cut=kind == "cut")

    def _answered(self, body: Body) -> Answer:
        hub, headers = self.server.hub, {name.title(): value for name, value in self.headers.items()}
        with hub._lock:
            if self.epoch != hub._epoch:
                raise ConnectionAbortedError("the state that this request was meant for is gone")
            return answer(hub._site, self.command, self.path, headers, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    @property
    def _chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding", "").lower() == "chunked"

    @property
    def _length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    @property
    def _has_body(self) -> bool:
        return self._chunked or self._length > 0

    def _blocks(self) -> Iterator[bytes]:
        """The body as it comes."""
        left = self._length
        while not self._chunked and left:
            left -= len(block := self._exactly(min(left, BLOCK)))
            yield block
        while self._chunked:
            size = int(self.rfile.readline(20).strip() or b"0", 16)
            block = self._exactly(size)
            self._exactly(len(b"\r\n"))
            if not size:
                return
            yield block

    def _exactly(self, size: int) -> bytes:
        block = self.rfile.read(size)
        if len(block) < size:
            raise ConnectionAbortedError("the client went away within a body")
        return block

    def _half(self) -> Iterator[bytes]:
        """Half of a body; of one whose length is not told, the first block."""
        if self._chunked:
            yield next(self._blocks())
        left = self._length // 2
        while left:
            left -= len(block := self._exactly(min(left, BLOCK)))
            yield block

    @contextlib.contextmanager
    def _received(self) -> Iterator[Body]:
        """The body in a file that may be moved away."""
        if not self._has_body:
            yield Body()
            return
        hub, digest, size = self.server.hub, hashlib.sha256(), 0
        path = hub._folder / "incoming" / str(next(hub._numbers))
        try:
            with path.open("wb") as file:
                for block in self._blocks():
                    digest.update(block)
                    size += file.write(block)
            yield Body(path, size, digest.hexdigest())
        finally:
            path.unlink(missing_ok=True)

    def _send(self, reply: Answer, cut: bool) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(reply.size))
        self.close_connection = self.close_connection or cut
        silent = self.command == "HEAD" or not reply.size
        if not (cut and silent):  # of these, half is nothing at all
            self.end_headers()
        if silent:
            return
        left = reply.size // 2 if cut else reply.size
        if isinstance(reply.body, bytes):
            self.wfile.write(reply.body[reply.start : reply.start + left])
            return
        with reply.body.open("rb") as file:
            file.seek(reply.start)
            while left and (block := file.read(min(left, BLOCK))):
                left -= self.wfile.write(block)

    def _hang(self) -> None:
        """Take what comes and say nothing, until the client or the server closes the connection."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            while self.connection.recv(BLOCK):
                pass


def _refusal(status: int) -> Answer:
    return Answer.refusal(_MESSAGES.get(status) or Refused(status, "Internal Error - We're working hard to fix this"))
