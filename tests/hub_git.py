"""git's objects as the stand-in of the Hugging Face Hub keeps them, with the hashes that git gives them."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


def git_oid(kind: str, content: bytes) -> str:
    """git's hash of an object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in a commit."""

    git: bytes  # what git stores: the file, or the pointer to a large object
    size: int  # of the file itself
    sha256: str = ""  # of a large object
    oid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "oid", git_oid("blob", self.git))

    @classmethod
    def large(cls, sha256: str, size: int) -> "Blob":
        """A file that git holds a pointer to."""
        return cls(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode(), size, sha256)

    @property
    def etag(self) -> str:
        """What identifies the file's bytes to the client."""
        return self.sha256 or self.oid


def directories(files: Mapping[str, Blob]) -> dict[str, str]:
    """git's tree hash of every directory; "" is the root."""
    entries: dict[str, list[tuple[str, str, str]]] = {"": []}
    for path, blob in files.items():
        for parent in parents(path):
            entries.setdefault(parent, [])
        entries[path.rpartition("/")[0]].append((path.rpartition("/")[2], "100644", blob.oid))
    trees: dict[str, str] = {}
    for folder in sorted(entries, key=lambda folder: folder.count("/") if folder else -1, reverse=True):
        # git compares a directory's name as if a slash followed it
        inside = sorted(entries[folder], key=lambda entry: (entry[0] + "/" * (entry[1] == "40000")).encode())
        listing = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for name, mode, oid in inside)
        trees[folder] = git_oid("tree", listing)
        if folder:
            entries[folder.rpartition("/")[0]].append((folder.rpartition("/")[2], "40000", trees[folder]))
    return trees


def parents(path: str) -> Iterator[str]:
    """The directories above a path, nearest first, without the root."""
    while path := path.rpartition("/")[0]:
        yield path


@dataclass(frozen=True, slots=True)
class Commit:
    """A state of all files; its hash is what git would give it."""

    parent: str
    title: str
    message: str
    author: str
    seconds: int
    files: Mapping[str, Blob]
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        person = f"{self.author} <{self.author}@localhost> {self.seconds} +0000"
        lines = [f"tree {directories(self.files)['']}"]
        lines += [f"parent {self.parent}"] if self.parent else []
        lines += [f"author {person}", f"committer {person}", "", self.title]
        lines += ["", self.message] if self.message else []
        object.__setattr__(self, "sha", git_oid("commit", "\n".join([*lines, ""]).encode()))


def stamp(seconds: int) -> str:
    """A time as the Hub writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))
