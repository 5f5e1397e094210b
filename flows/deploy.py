"""For a team's Prefect server: deployments/prefect.yaml, with the work pool that it names and the automation that it cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.templating import apply_values

from flows.recovery import ensure_automations
from flows.server import check_server
from tasks.errors import InputError, PipelineError
from tasks.params import load_params, read_yaml
from tasks.paths import Workspace


def deploy(workspace: Workspace, file: Path) -> list[str]:
    """Deploy all of `file`, with the model's name and the workspace filled in; again after every change of it, which registers
    nothing twice.

    Returns:
        The names of the deployments, FLOW/NAME.

    Raises:
        InputError: no server is set, or the file has no deployments.
        NetworkError: as `check_server`.
        PipelineError: Prefect refused them; its own words.
    """
    if not PREFECT_API_URL.value():
        raise InputError("PREFECT_API_URL is not set, so there is no server to deploy to; on one machine `refit serve` is enough")
    params = load_params(workspace.params)
    os.environ["REFIT_MODEL"] = params.push.name  # which the file names, as Prefect fills in values of the environment
    os.environ.setdefault("REFIT_WORKSPACE", str(workspace.root))
    found = _deployments(file)
    check_server()
    with get_client(sync_client=True) as client:
        for pool in sorted({each["work_pool"]["name"] for each in found}):
            _ensure_pool(client, pool)
        _prefect_deploy(workspace, file)
        names = [f"{each['entrypoint'].rpartition(':')[2]}/{each['name']}" for each in found]
        ids = [client.read_deployment_by_name(name).id for name in names]
        ensure_automations(client, params.push.name, ids, params.notify.blocks)
    return names


def _deployments(file: Path) -> list[dict[str, Any]]:
    found = read_yaml(file).get("deployments") or []
    if faulty := [each for each in found if not {"name", "entrypoint", "work_pool"} <= set(each)]:
        raise InputError(f"{file}: {faulty[0].get('name', 'a deployment')} lacks its name, entrypoint or work_pool")
    if not found:
        raise InputError(f"{file}: no deployments; take the file of this project as a start")
    return cast("list[dict[str, Any]]", apply_values(found, {}, remove_notset=False))


def _ensure_pool(client: SyncPrefectClient, name: str) -> None:
    """A process pool; one of another type is made before by whoever wants it."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def _prefect_deploy(workspace: Workspace, file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
        cwd=workspace.root,  # which entrypoints are relative to
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PipelineError(f"{file}: `prefect deploy` refused it: {done.stderr.strip() or done.stdout.strip()[-500:]}")
