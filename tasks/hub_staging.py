"""A candidate on its way into a repository of the Hub: every byte on a branch of its own, compared with the local files."""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import NetworkError, RegistryError
from tasks.files import sha256_json
from tasks.hub_repository import HubRepository
from tasks.hub_state import STAGING, State
from tasks.registry import DOCUMENTS, HISTORY, MANIFEST, Manifest, Move, history_lines, may_be_published, publishable_paths

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, RepoFile

    CommitOperation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

# May lie beside a version; the Hub makes the first one itself.
TOLERATED = (".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


@dataclass(frozen=True, slots=True)
class Staged:
    """A candidate whose every byte is at a commit of its staging branch, beside whatever else lies there."""

    branch: str
    commit: str
    manifest: Manifest


def upload(repository: HubRepository, state: State, model: Path, digest: str, documents: Mapping[str, bytes]) -> Staged:
    """Put a model on its staging branch.

    The client makes one commit of it or several. What is there already is not sent again, and as nothing is deleted, another
    publisher of the same model may do the same at the same time. The manifest follows when the hashes that the Hub has for the
    files make up the digest.

    Raises:
        RegistryError: a file may not be published, or the digest is not that of the bytes.
        NetworkError: bytes arrived otherwise than sent, or the Hub could not be asked.
    """
    paths = publishable_paths(model)
    branch = f"{STAGING}{digest[:12]}"
    api, repo_id, message = repository.api, repository.repo_id, f"stage {digest[:12]}"
    with tempfile.TemporaryDirectory(prefix="refit-") as scratch:
        folder = Path(scratch)
        for path in paths:
            (folder / path.name).symlink_to(path.resolve())
        for name, data in documents.items():
            (folder / name).write_bytes(data)
        with repository.asking("upload"):
            if branch not in state.staging:
                api.create_branch(repo_id, branch=branch, revision=state.head, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, commit_message=message)
        files = arrived(repository, branch, sorted(folder.iterdir()), documents)
    of_model = sha256_json({path.name: files[path.name] for path in paths})
    if of_model != digest:
        raise RegistryError(f"{model}: has digest {of_model[:12]}, wanted {digest[:12]}; it changed meanwhile, judge it again")
    manifest = Manifest(model_digest=digest, files=files)
    text = (manifest.model_dump_json(indent=2) + "\n").encode()
    with repository.asking("upload"):
        last = api.upload_file(
            repo_id=repo_id, path_in_repo=MANIFEST, path_or_fileobj=text, revision=branch, commit_message=message
        )
    return Staged(branch, last.oid, manifest)


def our_files(repository: HubRepository, commit: str) -> list[str]:
    """What Refit publishes of the files of a commit.

    Raises:
        RegistryError: there are others, which a reader would take for a part of the model.
    """
    tree = repository.tree(commit)
    if foreign := sorted(name for name in tree if not _is_ours(name) and name not in TOLERATED):
        raise RegistryError(
            f"{repository.name}: holds files that no version of a model has: {', '.join(foreign[:10])}; "
            "delete them there, or choose another push.repo_id"
        )
    return [name for name in tree if _is_ours(name)]


def operations(state: State, ours: list[str], commit: str, manifest: Manifest, move: Move) -> "list[CommitOperation]":
    """What makes main the version at `commit`: its files, nothing else of ours, and the line of history."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    wanted = [*manifest.files, MANIFEST]
    return [
        *(CommitOperationCopy(name, name, src_revision=commit) for name in wanted),
        *(CommitOperationDelete(name) for name in ours if name not in (*wanted, HISTORY)),
        CommitOperationAdd(HISTORY, history_lines([*state.moves, move])),
    ]


def _is_ours(name: str) -> bool:
    return may_be_published(name) or name in (*DOCUMENTS, MANIFEST, HISTORY)


def arrived(
    repository: HubRepository, revision: str, paths: Iterable[Path], sent: Mapping[str, bytes] | None = None
) -> dict[str, str]:
    """The sha256 of each file as it lies at a revision, by its name.

    Args:
        paths: The files as they were sent, small ones of which are compared byte for byte.
        sent: The bytes of those that are compared even if they are large.

    Raises:
        NetworkError: one of these arrived otherwise than sent, or any is missing.
    """
    tree = repository.tree(revision)
    known = {name: hashlib.sha256(data).hexdigest() for name, data in (sent or {}).items()}
    found = {path.name: _sha256_of(tree.get(path.name), path) for path in paths}
    files = {name: sha256 for name, sha256 in found.items() if sha256 and sha256 == known.get(name, sha256)}
    if bad := [name for name in found if name not in files]:
        raise NetworkError(f"{repository.name}: {', '.join(bad)} arrived on {revision} otherwise than sent")
    return files


def _sha256_of(entry: "RepoFile | None", path: Path) -> str | None:
    """Of a large file as the Hub tells it, of a small one if the Hub has the same bytes, else None."""
    from huggingface_hub.utils.sha import git_hash

    if entry is None or entry.lfs:
        return entry.lfs.sha256 if entry and entry.lfs else None
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest() if entry.blob_id == git_hash(data) else None
