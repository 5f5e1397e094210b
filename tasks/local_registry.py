"""A registry in a folder: no account, no network.

    PATH/champion.json          the pointer: version, digest, and the version that it replaced
    PATH/history.jsonl          one line for each move of the pointer
    PATH/versions/v1/           model files, README.md, decision.json, manifest.json

A version is built in PATH/.staging and renamed into place when whole; the pointer is replaced in one step. Readers need no lock.
Whatever a killed publication leaves is either a whole version, found by its digest, or removed by the next one.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tasks.errors import NotApprovedError, RegistryError, StaleChampionError
from tasks.files import hash_tree, sha256_file, sha256_json, write_atomic
from tasks.registry import (
    HISTORY,
    MANIFEST,
    Action,
    Manifest,
    Move,
    Pointer,
    Stored,
    history_lines,
    next_move,
    next_version,
    parse_stored,
    pointer_after,
    publishable_files,
    version_number,
    why_withdrawn,
)

_BLOCK = 1 << 20
_S = TypeVar("_S", bound=Stored)


class LocalRegistry:
    """A folder, on one file system that knows flock(2)."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or f"local:{path}"
        self._versions = path / "versions"
        self._staging = path / ".staging"
        self._pointer = path / "champion.json"
        self._history = path / HISTORY

    def check_access(self) -> None:
        existing = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RegistryError(f"{existing}: not a folder that may be written; choose another push.path, or make it one")

    def champion(self) -> Pointer | None:
        return _load(Pointer, self._pointer) if self._pointer.exists() else None

    def versions(self) -> list[str]:
        names = [path.name for path in self._versions.glob("v*") if version_number(path.name)]
        return sorted(names, key=version_number)

    def find(self, digest: str) -> str | None:
        return next((name for name in reversed(self.versions()) if self.digest(name) == digest), None)

    def digest(self, version: str) -> str:
        return self._manifest(version).model_digest

    def document(self, version: str, name: str) -> bytes | None:
        wanted = self._manifest(version).files.get(name)
        if wanted is None:
            return None
        path = self._versions / version / name
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != wanted:
            raise _damaged(path)
        return data

    def history(self) -> list[Move]:
        """All moves of the pointer, oldest first. The last line does not count where its move was never completed."""
        lines = self._history.read_bytes().splitlines() if self._history.exists() else []
        moves = [parse_stored(Move, line, str(self._history)) for line in lines]
        champion = self.champion()
        now = champion.version if champion else None
        unfinished = moves and moves[-1].version != now and moves[-1].previous == now
        return moves[:-1] if unfinished else moves

    def withdrawn(self, digest: str) -> str | None:
        return why_withdrawn(self.history(), digest)

    def stage(self, model: Path, digest: str, documents: Mapping[str, bytes]) -> str:
        with self._locked():
            return self.find(digest) or self._build(model, digest, documents)

    def verify(self, version: str) -> Manifest:
        manifest = self._manifest(version)
        folder = self._versions / version
        found = hash_tree(folder)
        found.pop(MANIFEST)
        if bad := sorted(name for name in found.keys() | manifest.files.keys() if found.get(name) != manifest.files.get(name)):
            raise RegistryError(f"{folder}: damaged: {', '.join(bad)} differ from {MANIFEST}; restore this folder from a backup")
        if sha256_json(manifest.model_files()) != manifest.model_digest:
            raise RegistryError(
                f"{folder}: damaged: model_digest of {MANIFEST} is not that of its files; restore this folder from a backup"
            )
        return manifest

    def promote(self, version: str, expected: str | None, reason: str) -> Pointer:
        with self._locked():
            return self._promote(version, expected, reason)

    def publish(self, model: Path, digest: str, documents: Mapping[str, bytes], expected: str | None, reason: str) -> Pointer:
        with self._locked():
            version = self.find(digest)
            if version is None:
                self._check_champion(expected)
                version = self._build(model, digest, documents)
            return self._promote(version, expected, reason)

    def propose(self, model: Path, digest: str, documents: Mapping[str, bytes], expected: str | None, reason: str) -> str:
        raise RegistryError(
            f"{self.path}: a folder has no pull requests; set push.pull_request to false, or push.registry to hub"
        )

    def rollback(self, version: str | None, reason: str) -> Pointer:
        with self._locked():
            champion = self.champion()
            target = version or (champion.previous if champion else None)
            if champion is None or target is None:
                what = f"{champion.version} replaced no other version" if champion else "nothing was published"
                raise RegistryError(f"{self.path}: {what}, so there is nothing to roll back to; name one of {self.versions()}")
            digest = self.verify(target).model_digest
            if target == champion.version:
                return champion
            return self._move(target, digest, "rollback", reason)

    def remove(self, version: str) -> None:
        """Give up the files of a version that is not the champion; its number and its lines of history stay taken.

        Raises:
            RegistryError: there is no such version, or it is the champion.
        """
        with self._locked():
            champion = self.champion()
            if champion is not None and champion.version == version:
                raise RegistryError(f"{self.path}: {version} is the champion; roll back to another version before it is removed")
            self._manifest(version)
            os.rename(self._versions / version, self._staging)  # from where it is swept, after a kill by the next one

    def fetch(self, version: str, target: Path) -> Manifest:
        manifest = self._manifest(version)
        target.mkdir(parents=True)
        for name, sha256 in manifest.model_files().items():
            try:
                _copy(self._versions / version / name, target / name)
            except FileNotFoundError:
                raise RegistryError(f"{self._versions / version / name}: missing; restore it from a backup") from None
            if sha256_file(target / name) != sha256:
                raise _damaged(self._versions / version / name)
        return manifest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other writers, also of other processes; the kernel frees the lock of a killed one."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._sweep()
                try:
                    yield
                finally:
                    self._sweep()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(self.path).free >> 20
            raise RegistryError(
                f"{self.path}: no space left ({free} MB free after clearing up), the champion is unchanged; make room, then retry"
            ) from None

    def _sweep(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def _build(self, model: Path, digest: str, documents: Mapping[str, bytes]) -> str:
        files = publishable_files(model)
        if sha256_json(files) != digest:
            raise RegistryError(
                f"{model}: has digest {sha256_json(files)[:12]}, wanted {digest[:12]}; it changed meanwhile, judge it again"
            )
        self._staging.mkdir()
        for name in files:
            _copy(model / name, self._staging / name)
        for name, data in documents.items():
            _write(self._staging / name, data)
            files[name] = hashlib.sha256(data).hexdigest()
        copied = hash_tree(self._staging)
        if bad := sorted(name for name in files if copied.get(name) != files[name]):
            raise RegistryError(
                f"{self._staging}: {', '.join(bad)} read back otherwise than written; check this disk, nothing was published"
            )
        manifest = Manifest(model_digest=digest, files=dict(sorted(files.items())))
        _write(self._staging / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        _sync_folder(self._staging)
        self._versions.mkdir(exist_ok=True)
        version = next_version(self.versions(), self.history())
        os.rename(self._staging, self._versions / version)
        _sync_folder(self._versions)
        return version

    def _promote(self, version: str, expected: str | None, reason: str) -> Pointer:
        digest = self.verify(version).model_digest
        champion = self.champion()
        if champion and champion.version == version:
            return champion
        self._check_champion(expected)
        if why := self.withdrawn(digest):
            raise NotApprovedError(
                f"{version} is this model, and it was rolled back ({why}); train another, or roll back to {version} by name"
            )
        return self._move(version, digest, "publish", reason)

    def _check_champion(self, expected: str | None) -> None:
        champion = self.champion()
        found = champion.version if champion else None
        if found != expected:
            raise StaleChampionError(
                f"{self.path}: the champion is {found or 'none'}, wanted {expected or 'none'}; "
                "somebody published meanwhile, run again to judge anew"
            )

    def _move(self, version: str, digest: str, action: Action, reason: str) -> Pointer:
        """The line of history goes first: a kill between the two leaves an unfinished line, which the next move replaces."""
        moves = [*self.history(), next_move(self.champion(), version, digest, action, reason)]
        pointer = pointer_after(moves)
        assert pointer is not None
        write_atomic(self._history, history_lines(moves))
        write_atomic(self._pointer, (pointer.model_dump_json(indent=2) + "\n").encode())
        _sync_folder(self.path)
        return pointer

    def _manifest(self, version: str) -> Manifest:
        if version not in self.versions():
            raise RegistryError(f"{self.path}: no version {version}; there are {self.versions()}")
        return _load(Manifest, self._versions / version / MANIFEST)


def _damaged(path: Path) -> RegistryError:
    return RegistryError(f"{path}: damaged: not the sha256 of {MANIFEST}; restore it from a backup")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _BLOCK)
        writer.flush()
        os.fsync(writer.fileno())


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _load(kind: type[_S], path: Path) -> _S:
    try:
        return parse_stored(kind, path.read_bytes(), str(path))
    except FileNotFoundError:
        raise RegistryError(f"{path}: missing; restore it from a backup") from None
