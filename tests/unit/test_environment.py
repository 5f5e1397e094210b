"""What a record says about the machine, with a stand-in for torch."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tasks.environment import describe, pick_device, pick_dtype, work_offline


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Knobs of a machine: whether it has CUDA, whether that does bfloat16, and what its processor can."""
    machine = SimpleNamespace(cuda=False, cuda_bf16=False, cpu={})
    module = ModuleType("torch")

    def does_bf16(including_emulation: bool = True) -> bool:
        return machine.cuda_bf16 or including_emulation

    module.__dict__.update(
        cuda=SimpleNamespace(is_available=lambda: machine.cuda, is_bf16_supported=does_bf16),
        cpu=SimpleNamespace(get_capabilities=lambda: machine.cpu),
        get_num_threads=lambda: 3,
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    return machine


@pytest.mark.parametrize(
    ("cuda", "cuda_bf16", "cpu", "wanted"),
    [
        (False, True, {"avx2": True}, "float32"),
        (False, False, {"avx512_bf16": True}, "bfloat16"),
        (False, False, {"amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        (False, False, {"bf16": True}, "bfloat16"),
        (False, False, {}, "float32"),
        (True, True, {}, "bfloat16"),
        (True, False, {"bf16": True}, "float32"),
    ],
)
def test_auto_is_what_the_computing_device_is_fast_at(
    torch: SimpleNamespace, cuda: bool, cuda_bf16: bool, cpu: dict[str, bool], wanted: str
) -> None:
    torch.cuda, torch.cuda_bf16, torch.cpu = cuda, cuda_bf16, cpu
    assert pick_device() == ("cuda" if cuda else "cpu")
    assert pick_dtype("auto") == wanted
    assert [pick_dtype(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_the_workspaces(torch: SimpleNamespace, tmp_path: Path) -> None:
    assert describe(tmp_path).git_commit is None
    git(tmp_path, "init", "--quiet")
    assert describe(tmp_path).git_commit is None, "no commit yet"
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    found = describe(tmp_path)
    assert found.git_commit == git(tmp_path, "rev-parse", "HEAD")
    assert (found.device, found.threads) == ("cpu", 3)
    assert found.packages["prefect"][0].isdigit()


def test_a_machine_without_git_has_no_commit(torch: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a slim container image: no reason to lose a finished training."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe(tmp_path).git_commit is None


def test_a_package_that_is_not_there_is_said_to_be_absent(
    torch: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.environment._PACKAGES", ("no-such-package-anywhere",))
    assert describe(tmp_path).packages == {"no-such-package-anywhere": "not installed"}


def test_offline_is_the_default_and_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HF_HUB_OFFLINE": "0"})
    work_offline()
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
