"""The files for containers, each by the checker of its own world: nothing here can run them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
FOLDER = REPO / "deployments"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
PREFECT = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((FOLDER / "kubernetes" / "kustomization.yaml").read_text())
MANIFESTS = {
    f"{document['kind']}/{document['metadata']['name']}": document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / "kubernetes" / name).read_text())
}
IMAGE, WORKSPACE = "refit", "/srv/refit"
GIVEN = {"POSTGRES_PASSWORD": "given1", "PREFECT_SERVER_API_AUTH_STRING": "given:2"}
SECRET = re.compile("PASSWORD|AUTH_STRING|TOKEN|CONNECTION_URL|REPOSITORY")


def containers() -> list[dict[str, Any]]:
    pods = [document["spec"]["template"]["spec"] for document in MANIFESTS.values() if document["kind"] == "Deployment"]
    return [container for pod in pods for container in (*pod.get("initContainers", []), *pod["containers"])]


def compose_config(folder: Path, given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a folder without an .env file, which a workspace may have."""
    if not shutil.which("docker-compose"):
        pytest.skip("apt-get install --no-install-recommends docker-compose")
    command = ["docker-compose", "--project-directory", str(folder), "--file", str(FOLDER / "compose.yaml"), "config"]
    return subprocess.run(command, env={"PATH": os.environ["PATH"], **given}, capture_output=True, text=True, check=False)


def linted(dockerfile: str) -> list[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--format", "json", "-"], input=dockerfile, capture_output=True, text=True, check=False)
    return [finding["code"] for finding in json.loads(done.stdout)]


def test_the_dockerfile_passes_its_linter_and_what_it_ignores_has_a_reason() -> None:
    assert linted(DOCKERFILE) == []
    assert linted(DOCKERFILE.replace("# hadolint ignore=DL3008\n", "")) == ["DL3008"]
    assert re.findall(r"ignore=\w+", DOCKERFILE) == re.findall(r"^# \w.{20,}\n# hadolint (ignore=\w+)$", DOCKERFILE, re.MULTILINE)


def test_what_the_image_is_made_of_is_let_through() -> None:
    let_through = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"pyproject.toml", "README.md", "LICENSE", "flows", "tasks", "deployments/constraints.txt"} == let_through
    assert all((REPO / name).exists() for name in let_through)


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_manifest_meets_the_schema_of_kubernetes(name: str) -> None:
    from kubernetes_validate import ValidationError, latest_version, validate

    manifest = MANIFESTS[name]
    validate(manifest, latest_version(), strict=True)
    with pytest.raises(ValidationError, match="replica"):
        validate({**manifest, "spec": {**manifest["spec"], "replica": 1}}, latest_version(), strict=True)


def test_the_manifests_are_all_there_and_fit_together() -> None:
    assert set(MANIFESTS) == {
        "Service/refit-server",
        "Deployment/refit-server",
        "PersistentVolumeClaim/refit",
        "Deployment/refit-worker",
    }
    assert {path.name for path in (FOLDER / "kubernetes").iterdir()} == {"kustomization.yaml", *KUSTOMIZATION["resources"]}
    assert all("namespace" not in document["metadata"] for document in MANIFESTS.values())
    server, worker = (MANIFESTS[f"Deployment/refit-{name}"]["spec"] for name in ("server", "worker"))
    service = MANIFESTS["Service/refit-server"]["spec"]
    assert service["selector"] == server["template"]["metadata"]["labels"] == server["selector"]["matchLabels"]
    assert worker["template"]["metadata"]["labels"] == worker["selector"]["matchLabels"]
    assert (worker["replicas"], worker["strategy"]) == (1, {"type": "Recreate"})
    for pod in (server["template"]["spec"], worker["template"]["spec"]):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]
        assert pod["securityContext"]["runAsUser"] == 1000


def test_compose_accepts_the_file(tmp_path: Path) -> None:
    done = compose_config(tmp_path, GIVEN)
    assert done.returncode == 0, done.stderr
    worker = yaml.safe_load(done.stdout)["services"]["worker"]
    assert worker["environment"]["HF_TOKEN"] is None  # not passed on, and not an empty one
    assert worker["environment"]["PREFECT_API_AUTH_STRING"] == GIVEN["PREFECT_SERVER_API_AUTH_STRING"]
    with_token = yaml.safe_load(compose_config(tmp_path, {**GIVEN, "HF_TOKEN": "given3"}).stdout)
    found = {name for name, service in with_token["services"].items() if "given3" in json.dumps(service)}
    assert found == {"worker"}


@pytest.mark.parametrize("name", GIVEN)
def test_compose_starts_nothing_without_a_secret(name: str, tmp_path: Path) -> None:
    done = compose_config(tmp_path, {other: value for other, value in GIVEN.items() if other != name})
    assert done.returncode != 0
    assert name in done.stderr


def test_no_secret_stands_in_a_file() -> None:
    in_compose = [
        (name, str(value or ""))
        for service in COMPOSE["services"].values()
        for name, value in service.get("environment", {}).items()
        if SECRET.search(name)
    ]
    assert len(in_compose) >= 6
    # Without what comes from outside, and the names of protocol, user and host, nothing is left.
    left = {re.sub(r"\$\{\w+:\?[^}]*\}", "", value) for _, value in in_compose}
    assert left == {"", "postgresql+asyncpg://prefect:@database/prefect"}
    in_kubernetes = [entry for container in containers() for entry in container["env"] if SECRET.search(entry["name"])]
    assert len(in_kubernetes) >= 6
    assert all(entry.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == "refit" for entry in in_kubernetes)
    assert not any(SECRET.search(line) for line in DOCKERFILE.splitlines() if line.startswith(("ENV", "ARG")))


def test_the_server_is_reached_from_its_own_machine_only() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports == {"server": ["127.0.0.1:4200:4200"]}
    assert not any("network_mode" in service for service in COMPOSE["services"].values())
    assert MANIFESTS["Service/refit-server"]["spec"].get("type", "ClusterIP") == "ClusterIP"
    assert not any(port.get("hostPort") for container in containers() for port in container.get("ports", []))


SETTINGS = {
    "Compose": [entry for service in COMPOSE["services"].values() for entry in service.get("environment", {}).items()],
    "Kubernetes": [(entry["name"], entry.get("value", "")) for container in containers() for entry in container["env"]],
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_prefect_knows_every_setting_and_its_value(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefect.settings

    written = dict([*SETTINGS[kind], *re.findall(r"(PREFECT_\w+)=(\S+)", DOCKERFILE)])
    known = {name: value for name, value in written.items() if hasattr(prefect.settings, name)}
    assert set(known) == {name for name in written if name.startswith("PREFECT_")}
    for name, value in known.items():
        monkeypatch.setenv(name, str(value))
    settings = prefect.settings.Settings()
    assert {"events", "flow_runs"} <= settings.server.services.db_vacuum.enabled_vacuum_types
    assert settings.server.ui.static_directory
    assert settings.worker.query_seconds == 2


def test_image_workspace_and_pool_are_one_everywhere() -> None:
    pools = PREFECT["definitions"]
    images = [service["image"] for name, service in COMPOSE["services"].items() if name != "database"]
    images += [container["image"] for container in containers()]
    images += [pool["job_variables"]["image"] for name, pool in pools.items() if name != "process"]
    images += [image["name"] for image in KUSTOMIZATION["images"]]
    images += re.findall(r"docker build -f deployments/Dockerfile -t (\S+) \.", DOCKERFILE)
    assert len(images) == 11
    assert set(images) == {IMAGE}
    assert f"WORKDIR {WORKSPACE}\n" in DOCKERFILE
    assert f"REFIT_WORKSPACE={WORKSPACE}\n" in DOCKERFILE
    for name in ("deploy", "worker"):
        assert f"..:{WORKSPACE}" in COMPOSE["services"][name]["volumes"]
    assert f"{WORKSPACE}:{WORKSPACE}" in pools["docker"]["job_variables"]["volumes"]
    assert re.findall(r"prefect worker start --pool (\S+)", DOCKERFILE) == [pools["process"]["name"]] == ["refit"]
    assert {deployment["work_pool"]["name"] for deployment in PREFECT["deployments"]} == {"refit"}
    (network,) = pools["docker"]["job_variables"]["networks"]
    assert network == COMPOSE["networks"]["default"]["name"]


@pytest.mark.parametrize("name", PREFECT["definitions"])
def test_a_pool_has_the_variables_of_its_type(name: str) -> None:
    """Against the templates of all worker types that Prefect carries for its dashboard."""
    import prefect

    views = Path(prefect.__file__).parent / "server" / "api" / "collections_data" / "views"
    known = json.loads((views / "aggregate-worker-metadata.json").read_text())
    package = {"process": "prefect"}.get(name, f"prefect-{name}")
    variables = known[package][name]["default_base_job_configuration"]["variables"]["properties"]
    assert set(PREFECT["definitions"][name]["job_variables"]) <= set(variables)


def test_a_worker_that_is_stopped_lets_its_runs_end_first(tmp_path: Path) -> None:
    """With a worker that, like Prefect's, kills its runs when it is told to stop."""
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    worker = tmp_path / "prefect"
    worker.write_text(
        """#!/bin/bash
        bash -c 'trap "sleep 1; touch saved; exit" TERM; touch began; while :; do sleep 0.1; done' &
        trap 'touch told; kill -KILL $!; exit' TERM
        mkfifo nothing
        read <> nothing"""
    )
    worker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(json.loads(command), cwd=tmp_path, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "began").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        process.wait(30)
        assert (tmp_path / "saved").exists()
        assert not (tmp_path / "told").exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
