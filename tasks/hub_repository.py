"""One repository of the Hugging Face Hub, through the documented API of its client, with errors of ours."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import NetworkError, RegistryError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.errors import HfHubHTTPError

_TIMEOUT = 120.0
"""Seconds without a byte after which a request counts as lost; the client itself would wait for ever."""


class RateLimitedError(NetworkError):
    """The Hub asks for patience, of so many seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class HubRepository:
    """A repository as it is now, of a model or (`repo_type` "dataset") of data; `api` carries endpoint and token."""

    def __init__(self, repo_id: str, api: "HfApi", repo_type: str = "model") -> None:
        self.repo_id = repo_id
        self.repo_type = repo_type
        self.name = f"hub:{repo_id}"
        self.api = api

    def refs(self) -> tuple[dict[str, str], dict[str, str]] | None:
        """Branches and tags with their commits; None if there is no repository.

        Raises:
            RegistryError: without a good token the Hub does not say whether it exists.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        with self.asking("read"):
            try:
                refs = self.api.list_repo_refs(self.repo_id)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                return None
        branches, tags = ({ref.name: ref.target_commit for ref in kind} for kind in (refs.branches, refs.tags))
        return branches, tags

    def check_write_access(self) -> None:
        """Ask whether the token may write to the repository, or, where there is none yet, make one in its namespace.

        Raises:
            RegistryError: it may not.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        with self.asking("ask for access"):
            try:
                self.api.auth_check(self.repo_id, write=True)
                return
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
            owner = self.api.whoami()
        if owner.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise RegistryError(f"{self.name}: does not exist, and HF_TOKEN may only read; take a token that may write")
        namespaces = [owner["name"], *(organisation["name"] for organisation in owner.get("orgs", []))]
        if self.repo_id.partition("/")[0] not in namespaces:
            raise RegistryError(
                f"{self.name}: does not exist, and HF_TOKEN, of {owner['name']}, may make repositories only in "
                f"{', '.join(namespaces)}; correct push.repo_id or take another token"
            )

    def tree(self, revision: str) -> "dict[str, RepoFile]":
        """Every file of a revision, by its path."""
        from huggingface_hub import RepoFile

        with self.asking(f"list {revision}"):
            entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.repo_type)
            return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def file(self, commit: str, name: str) -> bytes | None:
        """A small file of a commit, from the client's cache if it is there; None if the commit does not have it."""
        from huggingface_hub.errors import RemoteEntryNotFoundError

        with self.asking(f"read {name}"):
            try:
                return Path(self.api.hf_hub_download(self.repo_id, name, revision=commit)).read_bytes()
            except RemoteEntryNotFoundError:
                return None

    def download(self, commit: str, names: list[str], target: Path) -> None:
        """Files of a commit into a folder."""
        with self.asking("download"):
            self.api.snapshot_download(self.repo_id, revision=commit, allow_patterns=names, local_dir=target)

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn what the client raises into NetworkError, if the same request may succeed later, or into RegistryError."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, XetDownloadError

        try:
            yield
        except HfHubHTTPError as error:
            raise self._refused(what, error) from None
        except LocalEntryNotFoundError as error:  # how the client calls a network fault while nothing is cached
            raise NetworkError(f"{self.name}: cannot {what}: ConnectionError: {first_line(error.__cause__ or error)}") from error
        except (httpx2.HTTPError, ConnectionError, TimeoutError, XetDownloadError, RuntimeError, KeyError) as error:
            if isinstance(error.__cause__, HfHubHTTPError):  # of an upload of large files
                raise self._refused(what, error.__cause__) from None
            raise NetworkError(f"{self.name}: cannot {what}: {type(error).__name__}: {first_line(error)}") from error
        except ValueError as error:
            raise RegistryError(f"{self.name}: cannot {what}: {first_line(error)}") from None

    def _refused(self, what: str, error: "HfHubHTTPError") -> RegistryError | NetworkError:
        from huggingface_hub.errors import RevisionNotFoundError

        status = error.response.status_code
        said = f"{self.name}: cannot {what}: {status} {first_line(error.server_message or error.response.reason_phrase)}"
        if isinstance(error, RevisionNotFoundError):  # whatever revision is asked for was in a listing just before
            return NetworkError(f"{said}; it went meanwhile, with the end of another publication")
        if status == 429:
            return RateLimitedError(said, _seconds(error.response.headers))
        if status in (408, 409, 412) or status >= 500:
            return NetworkError(said)
        if status == 401:
            return RegistryError(f"{said}; set HF_TOKEN to a valid token with access to {self.repo_id}")
        if status == 403:
            return RegistryError(f"{said}; HF_TOKEN is valid, but needs write access to {self.repo_id}")
        return RegistryError(said)


def open_repository(repo_id: str, repo_type: str = "model") -> HubRepository:
    """With the token of the environment, HF_TOKEN, if there is one: a login of the client's own is not used."""
    from huggingface_hub import HfApi

    limit_patience(_TIMEOUT)
    return HubRepository(repo_id, HfApi(token=token_of_environment() or False, library_name="refit"), repo_type)


def token_of_environment() -> str:
    """HF_TOKEN without the line end that it has where it comes from a file, and which an error of HTTP would show with it."""
    return os.environ.get("HF_TOKEN", "").strip()


def limit_patience(seconds: float) -> None:
    """Give every request of the client a timeout: many of its calls ask for none at all, whatever its HTTP client has."""
    import httpx2
    from huggingface_hub import set_client_factory

    def limit(request: httpx2.Request) -> None:
        if not any((request.extensions.get("timeout") or {}).values()):
            request.extensions["timeout"] = httpx2.Timeout(seconds).as_dict()

    set_client_factory(lambda: httpx2.Client(follow_redirects=True, timeout=seconds, event_hooks={"request": [limit]}))


def first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _seconds(headers: Mapping[str, str]) -> float:
    """Of a Retry-After that gives seconds, or of the Hub's own header; one second where neither does."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    after = headers.get("retry-after", "")
    if after.isascii() and after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit else 1.0
