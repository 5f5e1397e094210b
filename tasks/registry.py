"""What a publish target can do, whichever it is, and what may be published.

A registry holds versions, which never change, and one pointer to the champion among them. Its file formats are here too.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import RegistryError, StageInputError
from tasks.files import MODEL_FILES, sha256_file
from tasks.model_folder import ADAPTER, INDEX, is_model
from tasks.paths import Workspace
from tasks.publishing_sections import Push

# What may be published: a model folder, also in several shards.
PUBLISHABLE = (*MODEL_FILES, "*.safetensors", INDEX, ADAPTER)
CARD, DECISION, TRAINING, PROFILE = "README.md", "decision.json", "training.json", "data_profile.json"
LOCK, PARAMS = "dvc.lock", "params.yaml"
DOCUMENTS = (CARD, DECISION, TRAINING, PROFILE, LOCK, PARAMS)
"""What a version says of itself: its card, the gate's decision, how it was trained, what the data looked like, its lineage."""
MANIFEST, HISTORY = "manifest.json", "history.jsonl"


_S = TypeVar("_S", bound="Stored")


class Stored(BaseModel):
    """Base of what a registry stores: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Pointer(Stored):
    """The champion. `previous` is the version that it replaced when it was published, None if it was the first."""

    version: str
    digest: str
    previous: str | None


class Manifest(Stored):
    """sha256 of every other file of a version, and the digest of the model among them (`tasks.files.tree_digest`)."""

    model_digest: str
    files: dict[str, str]

    def model_files(self) -> dict[str, str]:
        """Those files that are the model."""
        return {name: sha256 for name, sha256 in self.files.items() if may_be_published(name)}


Action = Literal["publish", "rollback"]


class Move(Stored):
    """One move of the pointer, from `previous` to `version`, which holds the model with this digest."""

    version: str
    digest: str
    previous: str | None
    action: Action
    reason: str
    at: str


def parse_stored(kind: type[_S], data: bytes, where: str) -> _S:
    """What a registry stored, of JSON.

    Raises:
        RegistryError: it is none; `where` says which file or line.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(
            f"{where}: not a {kind.__name__.lower()} ({error.errors()[0]['msg']}); restore it from a backup"
        ) from None


def pointer_after(moves: Sequence[Move]) -> Pointer | None:
    """Where the pointer stands after these moves, oldest first."""
    if not moves:
        return None
    last = moves[-1]
    published = [move for move in moves if move.version == last.version and move.action == "publish"]
    return Pointer(version=last.version, digest=last.digest, previous=published[-1].previous if published else None)


def next_move(champion: Pointer | None, version: str, digest: str, action: Action, reason: str) -> Move:
    """From the champion to a version, now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Move(
        version=version, digest=digest, previous=champion.version if champion else None, action=action, reason=reason, at=now
    )


def history_lines(moves: Sequence[Move]) -> bytes:
    """The bytes of history.jsonl."""
    return "".join(move.model_dump_json() + "\n" for move in moves).encode()


def next_version(known: Iterable[str], moves: Sequence[Move]) -> str:
    """A number that no version has, nor ever had."""
    return f"v{1 + max(map(version_number, [*known, *(move.version for move in moves)]), default=0)}"


def why_withdrawn(moves: Sequence[Move], digest: str) -> str | None:
    """Why this model was rolled back; None if it was not, or is the champion again."""
    reason = None
    versions = {move.version for move in moves if move.digest == digest}
    for move in moves:
        if move.version in versions:
            reason = None
        elif move.previous in versions and move.action == "rollback":
            reason = move.reason
    return reason


def version_number(version: str) -> int:
    """3 for v3, 0 for what is no version."""
    return int(version[1:]) if re.fullmatch(r"v[1-9]\d{0,8}", version) else 0


class Registry(Protocol):
    """What a publish target can do, a folder or a repository."""

    name: str

    def check_access(self) -> None:
        """Whether a version could be published here; changes nothing.

        Raises:
            RegistryError: it could not, and why.
        """

    def champion(self) -> Pointer | None:
        """The published model, None if there is none yet."""

    def versions(self) -> list[str]:
        """All whole versions, oldest first."""

    def find(self, digest: str) -> str | None:
        """The version that holds the model with this digest."""

    def digest(self, version: str) -> str:
        """The digest of a version's model, as its manifest says.

        Raises:
            RegistryError: there is no such version.
        """

    def document(self, version: str, name: str) -> bytes | None:
        """A file beside the model, as it was published; None if the version has none of that name.

        Raises:
            RegistryError: there is no such version, or the file is not what was published.
        """

    def history(self) -> list[Move]:
        """All moves of the pointer, oldest first."""

    def withdrawn(self, digest: str) -> str | None:
        """Why this model was rolled back; None if it was not."""

    def stage(self, model: Path, digest: str, documents: Mapping[str, bytes]) -> str:
        """Store the model as a new version, unless one holds it already; the champion stays.

        Raises:
            RegistryError: a file may not be published, the digest is not that of the bytes, or there is no room.
        """

    def verify(self, version: str) -> Manifest:
        """Compare every byte of a version with its manifest.

        Raises:
            RegistryError: there is no such version, or it is damaged.
        """

    def promote(self, version: str, expected: str | None, reason: str) -> Pointer:
        """Make a version the champion if the champion is still `expected` (None: none yet), or is this version already.

        Raises:
            StaleChampionError: somebody moved the pointer meanwhile.
            NotApprovedError: the version was rolled back.
        """

    def publish(self, model: Path, digest: str, documents: Mapping[str, bytes], expected: str | None, reason: str) -> Pointer:
        """Stage, verify and promote as one act: of two publishers one wins and the other leaves nothing behind."""

    def propose(self, model: Path, digest: str, documents: Mapping[str, bytes], expected: str | None, reason: str) -> str:
        """Have a person publish it there: returns the address of what waits for them. Not every registry can."""

    def rollback(self, version: str | None, reason: str) -> Pointer:
        """Point to `version`, or to the one that the champion replaced. Name it where the call may be repeated.

        The version left is withdrawn: `promote` refuses it until a rollback names it.

        Raises:
            RegistryError: there is no version to go back to, or it is damaged.
        """

    def fetch(self, version: str, target: Path) -> Manifest:
        """Copy the model files of a version into a new folder, each checked against the manifest."""


def open_registry(section: Push, workspace: Workspace) -> Registry:
    """The registry of params.yaml; a relative path starts at the workspace. The Hub is not asked yet."""
    if section.registry == "hub":
        from tasks.hub_registry import HubRegistry
        from tasks.hub_repository import open_repository

        assert section.repo_id is not None
        return HubRegistry(open_repository(section.repo_id), section.private, section.pull_request)
    from tasks.local_registry import LocalRegistry

    return LocalRegistry(workspace.root / section.path, f"{section.registry}:{section.path}")


def publishable_files(model: Path) -> dict[str, str]:
    """sha256 of each file of a model folder; `sha256_json` of it is the model's digest.

    Raises:
        StageInputError, RegistryError: as `publishable_paths`.
    """
    return {path.name: sha256_file(path) for path in publishable_paths(model)}


def publishable_paths(model: Path) -> list[Path]:
    """The files of a model folder, by name.

    Raises:
        StageInputError: there is no model.
        RegistryError: something in the folder may not be published; each is named.
    """
    if not is_model(model) or not any(model.glob("*.safetensors")):
        raise StageInputError(f"{model}: no model (wanted config.json and *.safetensors); run the stage train")
    entries = sorted(os.scandir(model), key=lambda entry: entry.name)
    refused = []
    for entry in entries:
        if entry.is_symlink():
            refused.append(f"{entry.name} (a symbolic link)")
        elif not entry.is_file():
            refused.append(f"{entry.name} (not a regular file)")
        elif not may_be_published(entry.name):
            refused.append(entry.name)
    if refused:
        raise RegistryError(
            f"{model}: may not be published: {', '.join(refused)}; wanted only regular files named {', '.join(PUBLISHABLE)}"
        )
    return [Path(entry.path) for entry in entries]


def may_be_published(name: str) -> bool:
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in PUBLISHABLE)
