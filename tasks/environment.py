"""Where a stage computes: device, precision and versions, as they go into records."""

import ctypes
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from tasks.records import Environment

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "lm_eval", "great_expectations", "dvc", "prefect")


def pick_device() -> str:
    """`cuda` where PyTorch sees such a device, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(wanted: str) -> str:
    """`wanted`, or for `auto` the faster of bfloat16 and float32 on this machine.

    A processor without bfloat16 instructions is about a hundred times slower at it than at float32 (1 against 130 GFLOP/s on
    AVX2), one with them (AVX512-BF16, AMX) about twice as fast.
    """
    if wanted != "auto":
        return wanted
    import torch

    if pick_device() == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    can = torch.cpu.get_capabilities()
    return "bfloat16" if can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16") else "float32"


def describe(root: Path) -> Environment:
    """The machine, the versions of the packages that decide a result, and the commit of the workspace's git, if it has one."""
    import torch

    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        device=pick_device(),
        threads=torch.get_num_threads(),
        git_commit=_git_commit(root),
        packages={name: _version(name) for name in _PACKAGES},
    )


def scores_as_now(environment: Environment) -> bool:
    """Whether the packages that decide a score are installed in the versions of `environment`; imports none of them."""
    return all(version == _version(name) for name, version in environment.scoring_packages.items())


def _git_commit(root: Path) -> str | None:
    try:
        git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None  # no git here, as in a slim container image
    return git.stdout.strip() if git.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back to the kernel, where the C library is glibc.

    PyTorch on a CPU asks for the same large buffers in every step; with glibc's defaults each of them is mapped, zeroed and
    unmapped again. A LoRA step of 8 x 112 tokens took 4.6 s instead of 7.5 s without that. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 28)):
        mallopt(option, value)


def work_offline() -> None:
    """Keep the Hugging Face libraries off the network and quiet, for stages that only touch local files.

    Call it before the first import of any of them: they read these variables when imported.
    """
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
