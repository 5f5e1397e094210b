"""Versions of the raw data, kept by DVC or git: bring files in so that the version is recorded, read the rows of any version."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from tasks.dvc_repo import dvc_repo, not_set_up
from tasks.errors import DataError, one_line
from tasks.files import copy_atomic, parse_yaml, sha256_file
from tasks.paths import Workspace
from tasks.readers import KINDS, find_raw_files, is_raw_file, read_rows
from tasks.row_diff import FileRows
from tasks.sections import Validate


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file on its way into the raw folder; `known` if the same bytes lie there already."""

    source: Path
    target: Path
    known: bool


def plan_arrivals(sources: Sequence[Path], folder: Path) -> list[Arrival]:
    """Where each file would go; nothing is written.

    Raises:
        DataError: one is no file of conversations, another one has its name, or the raw folder is not this workspace's to fill.
    """
    if origin := _origin(folder):
        raise DataError(
            f"{folder}: a copy of {origin}, which the next update would replace; put the files there, "
            f"then run `dvc update {dvc_file(folder)}`"
        )
    taken: dict[Path, Path] = {}
    return [_plan(source, folder / source.name, taken) for source in sources]


def _plan(source: Path, target: Path, taken: dict[Path, Path]) -> Arrival:
    if not source.is_file():
        raise DataError(f"{source}: {'a folder, wanted files' if source.is_dir() else 'no such file'}; nothing was added")
    if not is_raw_file(source.name):
        wanted = ", ".join(f"*{kind}" for kind in KINDS)
        raise DataError(f"{source}: would not be read; wanted a name like {wanted}, also with .gz or .zst; nothing was added")
    if not source.name.isprintable():
        raise DataError(f"{str(source)!r}: the file name is not printable UTF-8; rename the file")
    first = taken.setdefault(target, source)
    known = target.is_file() and sha256_file(target) == sha256_file(source)
    if first != source or (target.exists() and not known):
        raise DataError(
            f"{source}: {target if first == source else first} has this name and may have other rows; rename the file, or "
            f"replace the old one yourself (`refit data diff {target} {source}` tells what would change); nothing was added"
        )
    return Arrival(source, target, known)


def bring(arrivals: Sequence[Arrival]) -> None:
    """Copy what is not there yet, each file whole or not at all."""
    for arrival in arrivals:
        if not arrival.known:
            arrival.target.parent.mkdir(parents=True, exist_ok=True)
            copy_atomic(arrival.source, arrival.target)


def record_version(workspace: Workspace, folder: Path) -> str:
    """Have DVC record what lies in the folder, if DVC tracks it; returns what is left to do for a person.

    Raises:
        InputError: DVC cannot take it; the files stay where they are.
        TransientError: another process holds DVC's lock.
    """
    shown = workspace.relative(folder)
    if dvc_file(folder).is_file():
        _dvc_add(workspace, folder)
        return f"DVC has the version, {shown}.dvc names it; commit that file, and `dvc push` sends the data to your remote"
    if _git_tracks(folder):
        return f"{shown} is in git; commit it there"
    return f"neither git nor DVC tracks {shown}, so older versions are not kept; `dvc add {shown}` keeps them from now on"


def _dvc_add(workspace: Workspace, folder: Path) -> None:
    again = f"`dvc add {workspace.relative(folder)}` records the files that lie in {folder}"
    with dvc_repo(workspace, "take the new version", again) as repo:
        repo.scm_context.quiet = True  # its advice for git would stand in the middle of our standard output
        repo.add(str(folder))


def read_version(named: str | None, section: Validate, workspace: Workspace) -> list[FileRows]:
    """The rows of a version: of a file or folder, of the raw folder in a git revision, or (None) as it stands.

    Raises:
        DataError: there is no such version, or it cannot be read to its end.
    """
    folder = workspace.root / section.raw
    if named is None or Path(named).exists():
        return _read_path(Path(named) if named else folder, section, workspace)
    return _read_revision(named, folder, section, workspace)


def _read_path(path: Path, section: Validate, workspace: Workspace) -> list[FileRows]:
    found = [path] if path.is_file() else find_raw_files(path)
    files = [FileRows(file.relative_to(path).as_posix(), workspace.relative(file)) for file in found]
    return [rows.read(read_rows(file, rows.shown, {}), section.columns) for file, rows in zip(found, files, strict=True)]


def _read_revision(revision: str, folder: Path, section: Validate, workspace: Workspace) -> list[FileRows]:
    """One file at a time lies in a temporary folder meanwhile, since readers want a file."""
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    if not folder.is_relative_to(workspace.root):
        raise DataError(f"{folder}: not below {workspace.root}, so revisions of that do not have it; give two folders instead")
    found = []
    with TemporaryDirectory(prefix="refit-") as temporary:
        with _told(revision, workspace):
            with Repo(str(workspace.root)) as repo:
                top, config = Path(repo.scm.root_dir), dict(repo.config)
            # With the settings of now: of then, remotes are missing that were set since, and config.local then does not fit.
            stored = DVCFileSystem(str(top), rev=revision, subrepos=True, config=config)
            root = PurePosixPath("/", folder.relative_to(top).as_posix())
            paths = sorted(PurePosixPath(path) for path in stored.find(str(root)))
        for path in paths:
            if is_raw_file(path.name):
                rows = FileRows(path.relative_to(root).as_posix(), f"{revision}:{path.relative_to(root)}")
                copy = Path(temporary, path.name)
                with _told(revision, workspace):
                    stored.get_file(str(path), str(copy))
                found.append(rows.read(read_rows(copy, rows.shown, {}), section.columns))
                copy.unlink()
    if not found:
        raise DataError(f"{revision}: no file of conversations in {workspace.relative(folder)} of that revision")
    return found


@contextmanager
def _told(revision: str, workspace: Workspace) -> Iterator[None]:
    """DVC's own errors as one line that says what to do."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.scm import RevError, SCMError

    try:
        yield
    except RevError:
        raise DataError(
            f"{revision}: neither a file or folder nor a git revision of {workspace.root}; `git log` lists them"
        ) from None
    except SCMError:
        raise DataError(
            f"{revision}: no such file or folder, and {workspace.root} is not in git, so it has no revisions; give two folders"
        ) from None
    except NotDvcRepoError:
        raise not_set_up(workspace) from None
    except Exception as error:  # each kind of remote raises what its own library has
        said = one_line(error.__cause__ or error)
        raise DataError(
            f"{revision}: its data are neither in DVC's cache nor to be had from its remote ({said}); "
            "run `dvc push --all-commits` where they lie, and set that remote here (`dvc remote list`)"
        ) from None


def dvc_file(folder: Path) -> Path:
    """Where DVC writes down which version of the folder this is."""
    return folder.with_name(f"{folder.name}.dvc")


def _origin(folder: Path) -> str | None:
    """The place that `dvc import-url` or `dvc import` copied the folder from; None if it is no such copy."""
    if not (path := dvc_file(folder)).is_file():
        return None
    sources = parse_yaml(path.read_text()).get("deps", [])
    return next((str(source["path"]) for source in sources), None)


def _git_tracks(folder: Path) -> bool:
    try:
        listed = subprocess.run(["git", "ls-files", "--", "."], cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        return False  # no git here, as in a slim container image
    return listed.returncode == 0 and bool(listed.stdout)
