"""Raw data that DVC keeps: one workspace with three versions, a local remote, and an SSH remote behind a real sshd.

v0 has the raw folder in git, v1 the same files in DVC, v2 one file more, brought in by `refit data add`.
"""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import main

from flows import cli
from tasks.files import hash_tree, parse_yaml
from tasks.paths import Workspace
from tests.conftest import REPO, build_workspace, edit_params, free_port
from tests.integration.running import Done, execute, refused

DVC = (sys.executable, "-m", "dvc")
CLI = (sys.executable, "-m", "flows.cli")
LOGIN_SECONDS = 30
NEW_ROWS = 20


@dataclass(frozen=True)
class Sshd:
    """An OpenSSH server on loopback that lets this user in with `key`."""

    url: str
    key: Path


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """With host key, authorized key and known_hosts under tmp; the latter in a home folder for this process and its children."""
    program = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if program is None:
        pytest.fail("no sshd: install OpenSSH's server (Debian: `apt-get install openssh-server`), as .ci/run does")
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", home / name], check=True)
    port = free_port()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    (home / ".gitconfig").write_text("[user]\n    name = Refit\n    email = refit@example.com\n")
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": home / "host",
        "AuthorizedKeysFile": home / "key.pub",
        "StrictModes": "no",  # which wants no folder above the keys to be writable for others, as the one for temporary files is
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    (home / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    with pytest.MonkeyPatch.context() as patch, (home / "log").open("w") as log:
        patch.setenv("HOME", str(home))
        process = subprocess.Popen([program, "-D", "-e", "-f", home / "sshd_config"], stderr=log)
        try:
            _wait_until_it_greets(process, port, home / "log")
            yield Sshd(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", home / "key")
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_it_greets(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(LOGIN_SECONDS * 10):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=LOGIN_SECONDS) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except ConnectionError:
            pass
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    pytest.fail(f"no sshd on port {port}:\n{log.read_text()}")


def do(workspace: Workspace, *command: str) -> str:
    done = execute(workspace, command, env={"PYTHONPATH": str(workspace.root)})
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def dvc(workspace: Workspace, *arguments: str) -> None:
    """In this process, since most of a command of DVC's is a second of imports."""
    with chdir(workspace.root):
        assert main([*arguments, "--quiet"]) == 0, arguments


def under_git(workspace: Workspace) -> Workspace:
    """As a clone of the project is: all in git, raw data too."""
    for name in (".gitignore", "data/.gitignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(REPO / name, workspace.root / name)
    do(workspace, "git", "init", "--quiet")
    commit(workspace, "v0")
    return workspace


def commit(workspace: Workspace, tag: str) -> None:
    do(workspace, "git", "add", "--all")
    do(workspace, "git", "commit", "--quiet", "--message", tag)
    do(workspace, "git", "tag", tag)


def add_ssh_remote(workspace: Workspace, name: str, sshd: Sshd, folder: Path) -> None:
    dvc(workspace, "remote", "add", name, f"{sshd.url}{folder}")
    dvc(workspace, "remote", "modify", "--local", name, "keyfile", str(sshd.key))


def reproduce(workspace: Workspace, base: Path) -> dict[str, str]:
    """Run the stages that read the data; the md5 of every output in dvc.lock by its path."""
    shutil.copytree(base, workspace.base)
    for stage in ("suites", "validate", "prepare"):
        do(workspace, *DVC, "repro", "--single-item", stage)
    lock = parse_yaml((workspace.root / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


@dataclass(frozen=True)
class History:
    """The workspace at v2, what `refit data add` said, and another that imports the files of v1, with what its stages made."""

    workspace: Workspace
    told: dict[str, Any]
    importing: Workspace
    elsewhere: Path
    made: "Future[dict[str, str]]"


@pytest.fixture(scope="module")
def history(sshd: Sshd, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    folder = tmp_path_factory.mktemp("versions")
    importing = build_workspace(folder / "importing", tiny_base)
    elsewhere = Path((importing.data / "raw").rename(folder / "elsewhere"))
    under_git(importing)
    add_ssh_remote(importing, "upstream", sshd, elsewhere)
    dvc(importing, "import-url", "remote://upstream/", "data/raw")

    workspace = under_git(build_workspace(folder / "workspace", tiny_base))
    do(workspace, "git", "rm", "-r", "--quiet", "--cached", "data/raw")
    dvc(workspace, "add", "data/raw")
    dvc(workspace, "remote", "add", "--default", "near", str(folder / "near"))
    add_ssh_remote(workspace, "far", sshd, folder / "far")
    commit(workspace, "v1")
    rows = (REPO / "data" / "raw" / "refunds.jsonl").read_text().splitlines(keepends=True)
    (folder / "refunds.jsonl").write_text("".join(rows[:NEW_ROWS]))
    told = json.loads(do(workspace, *CLI, "data", "add", "--json", str(folder / "refunds.jsonl")))
    assert do(workspace, "git", "status", "--porcelain") == " M data/raw.dvc\n"
    commit(workspace, "v2")
    for remote in ("near", "far"):
        dvc(workspace, "push", "--all-commits", "--remote", remote, "data/raw.dvc")
    with ThreadPoolExecutor(1) as one:
        made = one.submit(reproduce, importing, tiny_base)
        yield History(workspace, told, importing, elsewhere, made)


def clone(history: History, folder: Path, sshd: Sshd) -> Workspace:
    """Without data and without the settings that git does not have."""
    subprocess.run(["git", "clone", "--quiet", history.workspace.root, folder], check=True)
    made = Workspace(folder)
    dvc(made, "remote", "modify", "--local", "far", "keyfile", str(sshd.key))
    return made


def diff(workspace: Workspace, capsys: pytest.CaptureFixture[str], *versions: str) -> dict[str, Any]:
    assert cli.main(["data", "diff", "--json", "--workspace", str(workspace.root), *versions]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_added_files_are_a_version_of_dvc(history: History) -> None:
    assert history.told["added"] == ["data/raw/refunds.jsonl"]
    assert history.told["then"].startswith("DVC has the version, data/raw.dvc names it")
    assert do(history.workspace, *DVC, "status", "data/raw.dvc").strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize("remote", ["near", "far"])
def test_an_old_version_gives_the_same_dataset_elsewhere(
    history: History, sshd: Sshd, tiny_base: Path, tmp_path: Path, remote: str
) -> None:
    made = clone(history, tmp_path / "clone", sshd)
    dvc(made, "pull", "--remote", remote, "data/raw.dvc")
    assert hash_tree(made.data / "raw") == hash_tree(history.workspace.data / "raw")
    dvc(made, "fetch", "--remote", remote, "--all-commits", "data/raw.dvc")
    do(made, "git", "checkout", "--quiet", "v1", "--", "data/raw.dvc")
    dvc(made, "checkout", "data/raw.dvc")
    assert not (made.data / "raw" / "refunds.jsonl").exists()
    if remote == "far":
        outputs = reproduce(made, tiny_base)
        assert {"data/validated/accepted.parquet", "data/prepared"} <= outputs.keys()
        assert outputs == history.made.result()


def test_rows_are_compared_between_revisions_and_with_what_lies_there(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    same = diff(history.workspace, capsys, "v0", "v1")
    assert same["examples"] == {}
    assert same["total"]["unchanged"] == same["total"]["before"] > NEW_ROWS
    for versions in (["v1", "v2"], ["v1"], ["v1", str(history.workspace.data / "raw")]):
        more = diff(history.workspace, capsys, *versions)
        assert more["files"]["refunds.jsonl"]["added"] == more["total"]["added"] == NEW_ROWS
        assert more["total"]["unchanged"] == same["total"]["before"]
    assert diff(history.workspace, capsys, "v2", "v1")["examples"]["removed"][0] == "v2:refunds.jsonl:1"


def test_rows_are_compared_without_a_copy_of_the_data(
    history: History, sshd: Sshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = clone(history, tmp_path / "clone", sshd)
    dvc(made, "remote", "default", "far")
    assert diff(made, capsys, "v1", "v2")["total"]["added"] == NEW_ROWS
    assert not (made.data / "raw").exists()


def refusal(workspace: Workspace, capsys: pytest.CaptureFixture[str], *versions: str) -> str:
    code = cli.main(["data", "diff", "--workspace", str(workspace.root), *versions])
    return refused(Done([], code, *capsys.readouterr()), 2, "DataError")


def test_a_version_that_cannot_be_had_is_told_in_one_line(
    history: History, sshd: Sshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(history.workspace, capsys, "nonsense")
    assert f"nonsense: neither a file or folder nor a git revision of {history.workspace.root}" in message
    made = clone(history, tmp_path / "clone", sshd)
    edit_params(made, {"validate.raw": "data/other", "guidelines.policy": "data/other/policy.yaml"})
    assert "v1: no file of conversations in data/other of that revision" in refusal(made, capsys, "v1", "v2")
    do(made, "git", "checkout", "--quiet", "params.yaml")
    for name, url in {"empty": tmp_path / "empty", "closed": "ssh://127.0.0.1:1/data", "barred": f"{sshd.url}/data"}.items():
        dvc(made, "remote", "add", "--local", "--default", "--force", name, str(url))
        message = refusal(made, capsys, "v1", "v2")
        assert "v1: its data are neither in DVC's cache nor to be had from its remote (" in message
        assert "`dvc push --all-commits`" in message
    shutil.rmtree(made.root / ".git")
    assert "is not in git, so it has no revisions; give two folders" in refusal(made, capsys, "v1", "v2")


def test_an_imported_folder_is_updated_not_added_to(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """It went through the stages as the folder of `dvc add` did, see above."""
    workspace, orders = history.importing, history.elsewhere / "orders.jsonl"
    assert history.made.result()
    commit(workspace, "v1")
    orders.write_text("".join(orders.read_text().splitlines(keepends=True)[1:]))
    dvc(workspace, "update", "data/raw.dvc")
    assert diff(workspace, capsys, "v1")["examples"] == {"removed": ["v1:orders.jsonl:1"]}
    code = cli.main(["data", "add", "--workspace", str(workspace.root), str(orders)])
    assert "data/raw: a copy of remote://upstream" in refused(Done([], code, *capsys.readouterr()), 2, "DataError")


def test_a_workspace_may_lie_below_the_root_of_git(sshd: Sshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path / "team")
    shutil.copytree(REPO / "data" / "raw", workspace.data / "raw")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPO / name, workspace.root)
    do(workspace, "git", "init", "--quiet", "..")
    dvc(workspace, "init", "--subdir")
    dvc(workspace, "add", "data/raw")
    commit(workspace, "v1")
    (workspace.data / "raw" / "orders.jsonl").unlink()
    found = diff(workspace, capsys, "v1")
    assert found["total"]["removed"] == found["files"]["orders.jsonl"]["before"] > 0
    assert found["examples"] == {"removed": [f"v1:orders.jsonl:{n}" for n in (1, 2, 3)]}
