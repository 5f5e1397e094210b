"""DVC's own interface to Python; its errors become one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.errors import InputError, TransientError, one_line
from tasks.paths import Workspace

if TYPE_CHECKING:
    from dvc.repo import Repo


@contextmanager
def dvc_repo(workspace: Workspace, purpose: str, again: str = "try again") -> Iterator["Repo"]:
    """DVC's repository of a workspace.

    Args:
        workspace: The folder with dvc.yaml.
        purpose: What DVC is asked for, as in "DVC cannot tell what changed".
        again: What a person does once nothing stands in its way.

    Raises:
        InputError: DVC was never set up here, or refuses.
        TransientError: another process holds DVC's lock.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(workspace.root)) as repo:
            yield repo
    except NotDvcRepoError:
        raise not_set_up(workspace) from None
    except LockError:
        raise TransientError(f"{workspace.root}: another process holds DVC's lock; wait for that to end, then {again}") from None
    except DvcException as error:
        raise InputError(f"{workspace.root}: DVC cannot {purpose}: {one_line(error)}; mend that, then {again}") from None


def not_set_up(workspace: Workspace) -> InputError:
    """For a folder where `dvc init` was never run."""
    return InputError(f"{workspace.root}: DVC does not know this folder; run `dvc init` there (`dvc init --no-scm` without git)")
