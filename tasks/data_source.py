"""Raw data that DVC keeps, brought up to date with where they come from, so that a look at the folder sees what is new.

An import (`dvc import-url`, `dvc import`) follows its source; of a folder that DVC tracks, the file `raw.dvc` that git brought
names the version. Nothing that only lies in the folder is replaced.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.data_versions import dvc_file
from tasks.dvc_repo import dvc_repo
from tasks.errors import DataError, PipelineError, TransientError, one_line
from tasks.files import sha256_file
from tasks.paths import Workspace

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage


class DataSource:
    """Of one raw folder. A version that git brings is checked out once: what a person then does to the folder stays."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self._workspace, self._folder, self._file = workspace, folder, dvc_file(folder)
        self._known = workspace.root / ".cache" / f"{self._file.name}.sha256"

    @property
    def kept_by_dvc(self) -> bool:
        return self._file.is_file()

    def refresh(self) -> bool:
        """Whether the folder was changed.

        Raises:
            InputError: the source is gone, or the folder has changes that no version has; it is left as it is.
            TransientError: the source cannot be had now, or another process holds DVC's lock.
        """
        with self._opened() as repo:
            (found,) = repo.stage.collect_granular(str(self._file))
            return self._update(repo, found.stage) if found.stage.is_import else self._check_out(repo)

    def _update(self, repo: "Repo", stage: "Stage") -> bool:
        """DVC removes the old copy before it fetches the new one: if that fails, it is brought back."""
        (source,) = stage.deps
        changes = source.workspace_status()
        if not changes:
            return False
        if "deleted" in changes.values():
            raise DataError(f"{self._shown}: its source {source} is gone; what lies there stays")
        try:
            repo.update([str(self._file)])
        except Exception:
            repo.checkout([str(self._file)])
            raise
        return True

    def _check_out(self, repo: "Repo") -> bool:
        now = sha256_file(self._file)
        if self._folder.exists() and (not self._known.is_file() or self._known.read_text() == now):
            done = {}
        else:
            done = repo.pull([str(self._file)])
        self._known.parent.mkdir(exist_ok=True)
        self._known.write_text(now)
        return any(done.get(what) for what in ("added", "modified", "deleted"))

    @property
    def _shown(self) -> str:
        return self._workspace.relative(self._folder)

    @contextmanager
    def _opened(self) -> Iterator["Repo"]:
        again = f"`dvc add {self._shown}` keeps what lies there as a version, or `dvc pull --force {self._shown}.dvc` replaces it"
        try:
            with dvc_repo(self._workspace, f"bring {self._shown} up to date", again) as repo:
                yield repo
        except PipelineError:
            raise
        except Exception as error:  # each kind of remote raises what its own library has
            raise TransientError(
                f"{self._shown}: cannot be brought up to date now: {type(error).__name__}: {one_line(error)}"
            ) from error
