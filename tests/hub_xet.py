"""Where the client's Xet uploads go for the stand-in of the Hugging Face Hub: hf_xet's own storage in a local folder."""

import hashlib
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.files import sha256_file
from tests.hub_store import Key

# A shard after its header: per file an entry with its hash, flags and number of segments; the segments; if the first flag
# is set, as many hashes of them; if the second is, the sha256. All are of one size. A hash of ones ends it.
_HEADER, _ENTRY, _END = 48, 48, b"\xff" * 32
_WITH_HASHES, _WITH_SHA256 = 1 << 31, 1 << 30


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the storage: Xet's own hash of it and its size."""

    hash: str
    size: int


class Cas:
    """One storage folder for each repository, since two processes cannot open one at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[Path, dict[str, Stored]] = {}

    def url(self, key: Key) -> str:
        """What the client is told to use."""
        return f"local://{self._place(key)}"

    def known(self, key: Key) -> dict[str, Stored]:
        """sha256 → what a repository's storage has."""
        found: dict[str, Stored] = {}
        for path in self._place(key).glob("xet/xorbs/shards/*.mdb"):
            if path not in self._shards:  # a shard is named by its hash and never changes
                self._shards[path] = dict(_files(path.read_bytes()))
            found |= self._shards[path]
        return found

    def rebuild(self, key: Key, objects: Path) -> None:
        """Write each stored file that `objects` lacks there, named by its sha256, which is checked."""
        import hf_xet  # type: ignore[import-untyped]

        lacking = {sha256: stored for sha256, stored in self.known(key).items() if not (objects / sha256).exists()}
        # a client may still have the storage open, and its database takes one process only
        with tempfile.TemporaryDirectory(dir=self._folder) as copy:
            shutil.copytree(self._place(key), copy, dirs_exist_ok=True)
            with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
                for sha256, stored in lacking.items():
                    group.start_download_file(hf_xet.XetFileInfo(stored.hash, stored.size), f"{copy}/{sha256}")
            for sha256 in lacking:
                rebuilt = Path(copy) / sha256
                if sha256_file(rebuilt) != sha256:
                    raise ValueError(f"Xet's storage has another file under sha256 {sha256}")
                rebuilt.replace(objects / sha256)

    def _place(self, key: Key) -> Path:
        place = self._folder.absolute() / hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        place.mkdir(parents=True, exist_ok=True)
        return place


def _files(shard: bytes) -> Iterator[tuple[str, Stored]]:
    at = _HEADER
    while (name := shard[at : at + 32]) != _END:
        flags, segments = struct.unpack_from("<2I", shard, at + 32)
        sizes = [struct.unpack_from("<I", shard, at + _ENTRY * number + 36)[0] for number in range(1, segments + 1)]
        at += _ENTRY * (1 + segments * (2 if flags & _WITH_HASHES else 1))
        if flags & _WITH_SHA256:
            yield _hexadecimal(shard[at : at + 32]), Stored(_hexadecimal(name), sum(sizes))
            at += _ENTRY


def _hexadecimal(raw: bytes) -> str:
    """As Xet prints a hash: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))
