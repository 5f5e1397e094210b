"""A candidate on its way into a repository of the Hub: every byte on a branch of its own, compared with the local files."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import NetworkError, RegistryError
from tasks.files import sha256_file, sha256_json
from tasks.hub_repository import HubRepository
from tasks.hub_state import MAIN, STAGING, State
from tasks.registry import DOCUMENTS, HISTORY, MANIFEST, Manifest, may_be_published, publishable_files

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

# May lie beside a version; the Hub makes the first one itself.
TOLERATED = (".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


def upload(repository: HubRepository, state: State, model: Path, digest: str, documents: Mapping[str, bytes]) -> str:
    """Put a model on its staging branch, beside whatever lies there; returns the branch's name.

    The client makes one commit of it or several. What is there already is not sent again, and as nothing is deleted, another
    publisher of the same model may do the same at the same time.

    Raises:
        RegistryError: a file may not be published, the digest is not that of the bytes, or the repository holds foreign files.
        NetworkError: bytes arrived otherwise than sent, or the Hub could not be asked.
    """
    assert state.head is not None
    files = publishable_files(model)
    if sha256_json(files) != digest:
        raise RegistryError(
            f"{model}: has digest {sha256_json(files)[:12]}, wanted {digest[:12]}; it changed meanwhile, judge it again"
        )
    files |= {name: hashlib.sha256(data).hexdigest() for name, data in documents.items()}
    manifest = Manifest(model_digest=digest, files=dict(sorted(files.items()))).model_dump_json(indent=2) + "\n"
    our_files(repository, state.head)
    branch = f"{STAGING}{digest[:12]}"
    with tempfile.TemporaryDirectory(prefix="refit-") as scratch:
        folder = Path(scratch)
        for path in model.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        for name, data in {**documents, MANIFEST: manifest.encode()}.items():
            (folder / name).write_bytes(data)
        with repository.asking("upload"):
            if branch not in state.staging:
                repository.api.create_branch(repository.repo_id, branch=branch, revision=state.head, exist_ok=True)
            repository.api.upload_folder(
                repo_id=repository.repo_id,
                folder_path=folder,
                revision=branch,
                commit_message=f"stage {digest[:12]}",
            )
        _compare(repository, branch, folder)
    return branch


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


def _is_ours(name: str) -> bool:
    return may_be_published(name) or name in (*DOCUMENTS, MANIFEST, HISTORY)


def _compare(repository: HubRepository, branch: str, folder: Path) -> None:
    tree = repository.tree(branch)
    sent = {path.name: path for path in folder.iterdir()}
    if bad := [name for name, path in sent.items() if name not in tree or not _same(tree[name], path)]:
        raise NetworkError(
            f"{repository.name}: {', '.join(sorted(bad))} arrived on {branch} otherwise than sent; {MAIN} is unchanged"
        )


def _same(entry: "RepoFile", path: Path) -> bool:
    """Whether the Hub holds these bytes; it names a large file by its sha256, a small one as git does."""
    from huggingface_hub.utils.sha import git_hash

    if entry.lfs:
        return entry.lfs.sha256 == sha256_file(path)
    return entry.size == path.stat().st_size and entry.blob_id == git_hash(path.read_bytes())
