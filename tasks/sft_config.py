"""From the section `train` of params.yaml to what TRL and PEFT take, checked against the installed versions.

    python -m tasks.sft_config

says whether they take it; preflight asks so where the section names more than Refit knows by itself.
"""

import argparse
import dataclasses
import difflib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tasks.environment import pick_device, pick_dtype, work_offline
from tasks.errors import ParamsError, PipelineError, one_line
from tasks.params import load_params
from tasks.paths import Workspace
from tasks.process import format_error
from tasks.training_section import LOWER_IS_BETTER, Train

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import SFTConfig


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that one device takes at once, and how many such batches make an optimizer step."""

    per_device: int
    accumulation: int

    @classmethod
    def of(cls, section: Train) -> Self:
        """As params.yaml asks."""
        return cls(section.per_device_train_batch_size, section.gradient_accumulation_steps)

    def smaller(self) -> Self | None:
        """The next smaller one with as many rows a step; None if it is one row already."""
        factor = next((n for n in range(2, self.per_device + 1) if self.per_device % n == 0), None)
        return None if factor is None else type(self)(self.per_device // factor, self.accumulation * factor)


def asks_more(section: Train) -> bool:
    """Whether `check` could find a fault in it; everything else was checked when params.yaml was read."""
    return bool(section.sft) or section.method == "qlora" or section.dtype == "float16"


def check(section: Train) -> None:
    """Ask the installed TRL and this machine whether they can train so.

    Raises:
        ParamsError: they cannot.
    """
    work_offline()
    with tempfile.TemporaryDirectory() as scratch:
        sft_config(section, Path(scratch), Batch.of(section))


def sft_config(section: Train, output_dir: Path, batch: Batch) -> "SFTConfig":
    """TRL's configuration: what Refit sets, and `train.sft` over it.

    Raises:
        ParamsError: a field of `train.sft` that the installed TRL does not know or does not take, or a method or precision that
            this machine cannot do.
    """
    from trl import SFTConfig

    _check_machine(section)
    known = {field.name for field in dataclasses.fields(SFTConfig)}
    if unknown := [name for name in section.sft if name not in known]:
        raise ParamsError("\n".join(_unknown(name, known) for name in unknown))
    with refusals("train", "trl"):
        return SFTConfig(**_arguments(section, output_dir, batch))


@contextmanager
def refusals(what: str, package: str) -> Iterator[None]:
    """What a library says against the values it was given, as a fault of params.yaml.

    Raises:
        ParamsError: the library refused them.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        said = one_line(error)
        raise ParamsError(f"{what}: {package} {metadata.version(package)} refuses these values: {said}") from error


def _arguments(section: Train, output_dir: Path, batch: Batch) -> dict[str, Any]:
    cuda = pick_device() == "cuda"
    _, dtype = precisions(section)
    best = section.metric_for_best_model
    packing = bool(section.sft.get("packing"))
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "max_length": None,
        "packing": False,
        "eval_packing": False,
        "loss_type": "nll",
        "dataset_kwargs": {"skip_prepare_dataset": not packing},
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_scheduler_type,
        "warmup_steps": section.warmup_steps,
        "weight_decay": section.weight_decay,
        "num_train_epochs": section.num_train_epochs,
        "max_steps": section.max_steps,
        "per_device_train_batch_size": batch.per_device,
        "per_device_eval_batch_size": batch.per_device,
        "gradient_accumulation_steps": batch.accumulation,
        "train_sampling_strategy": "random" if packing else "group_by_length",
        "bf16": cuda and dtype == "bfloat16",
        "fp16": dtype == "float16",
        "tf32": True if cuda and dtype == "float32" and _has_tf32() else None,
        "use_liger_kernel": cuda and find_spec("liger_kernel") is not None,
        "activation_checkpointing": section.sft.get("gradient_checkpointing", False),
        "eval_strategy": "steps",
        "eval_steps": section.eval_steps,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": section.eval_steps,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # how patient early stopping was already
        "load_best_model_at_end": best is not None,
        "metric_for_best_model": best,
        "greater_is_better": None if best is None else best not in LOWER_IS_BETTER,
        "logging_steps": section.logging_steps,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "seed": section.seed,
        "data_seed": section.seed,
    }
    return arguments | {name: value for name, value in section.sft.items() if name != "gradient_checkpointing"}


def precisions(section: Train) -> tuple[str, str]:
    """Of the weights while training, and of the arithmetic.

    Full fine-tuning keeps its weights in float32, since small updates vanish in 16 bits, and computes in 16 bits on CUDA only.
    """
    compute = pick_dtype(section.dtype)
    if section.method != "full":
        return compute, compute
    return "float32", compute if pick_device() == "cuda" else "float32"


def attention(dtype: str) -> str:
    """The attention of transformers that this machine is quickest at: FlashAttention 2 where it is installed and applies."""
    installed = find_spec("flash_attn") is not None and dtype in ("bfloat16", "float16")
    return "flash_attention_2" if pick_device() == "cuda" and installed else "sdpa"


def speed_ups(config: "SFTConfig", dtype: str) -> list[str]:
    """What this machine has and the training uses, for its log."""
    import torch

    found = [f"{attention(dtype)} attention"]
    if pick_device() == "cpu":
        return [*found, f"{torch.get_num_threads()} threads"]
    return [*found, *(["tf32"] if config.tf32 else []), *(["Liger kernels"] if config.use_liger_kernel else [])]


def lora_config(section: Train, layers: int) -> "LoraConfig | None":
    """PEFT's configuration for a model of so many layers; None for full fine-tuning.

    Raises:
        ParamsError: PEFT refuses the values, or the model lacks a layer, which PEFT would pass over in silence.
    """
    from peft import LoraConfig

    if section.method == "full":
        return None
    if absent := [layer for layer in section.lora.layers_to_transform or () if not 0 <= layer < layers]:
        raise ParamsError(f"train.lora.layers_to_transform: the model has the layers 0 to {layers - 1}, not {absent}; null: all")
    with refusals("train.lora", "peft"):
        return LoraConfig(task_type="CAUSAL_LM", **section.lora.model_dump(mode="json"))


def _has_tf32() -> bool:
    import torch

    return bool(torch.cuda.get_device_capability() >= (8, 0))


def _check_machine(section: Train) -> None:
    cuda = pick_device() == "cuda"
    if section.method == "qlora" and not (cuda and find_spec("bitsandbytes")):
        found = "no bitsandbytes is installed" if cuda else "PyTorch sees no CUDA device"
        raise ParamsError(f"train.method: qlora needs CUDA and bitsandbytes, and {found}; take lora, or another machine")
    if section.dtype == "float16" and not cuda:
        raise ParamsError("train.dtype: float16 needs CUDA, and PyTorch sees no such device; take auto, or another machine")
    if section.dtype == "float16" and section.method != "full":
        raise ParamsError("train.dtype: float16 is for train.method: full (mixed precision); LoRA takes bfloat16 or float32")


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"train.sft.{name}: TRL {metadata.version('trl')} has no such field of SFTConfig" + (
        f"; did you mean {close[0]}?" if close else "; remove it"
    )


def main() -> int:
    """Check the section `train` of a workspace's params.yaml; 0, or the exit code of the error that was printed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--workspace", type=Path, help="folder with params.yaml, dvc.yaml and data/ (default: found from here)")
    arguments = parser.parse_args()
    try:
        workspace = Workspace.find(arguments.workspace)
        os.chdir(workspace.root)
        check(load_params(workspace.params).train)
    except PipelineError as error:
        print(format_error(error), file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
