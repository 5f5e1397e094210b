"""TRL's SFTTrainer that stops at the first number that is none, tells how far it is, and leaves quickly and whole when asked to.

Importing this imports torch, transformers and TRL: do it where you train.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer
from trl.trainer import utils as trl_utils

from tasks.checkpoints import mark_complete

TERMINATED = 128 + signal.SIGTERM
ScoreReplies = Callable[[Any, Callable[[], None]], dict[str, float]]
"""From a model, and what to call before each of its batches, to metrics."""


_HAS_TRITON = trl_utils._use_triton


def _skips_unsupervised(device: torch.device) -> bool:
    """Whether logits are computed of supervised positions only.

    TRL does so where it has Triton and nowhere else, for the sake of devices that compile anew for each number of positions. A
    CPU does not: a LoRA step of 4 x 108 tokens, 40 % of them supervised, takes 0.8 of the time.
    """
    return device.type == "cpu" or bool(_HAS_TRITON(device))


trl_utils._use_triton = _skips_unsupervised


class NotFiniteError(ArithmeticError):
    """A loss or gradient is not a number or infinite, or the loss is zero; `input_ids` are those of the batch, [rows, tokens]."""

    def __init__(self, what: str, value: float, step: int, input_ids: torch.Tensor) -> None:
        super().__init__(f"{what} is {value} in step {step}")
        self.input_ids = input_ids


class TerminatedError(Exception):
    """SIGTERM came while the model was evaluated."""


class Trainer(SFTTrainer):
    """SFTTrainer with guards; `score_replies`, where given, adds its metrics to every evaluation's.

    Raises (in `train`):
        NotFiniteError: see there. Without it transformers logs the mean of the losses before in its place and goes on.
    """

    def __init__(
        self,
        *,
        args: SFTConfig,
        lengths: list[int],
        patience: int | None = None,
        score_replies: "ScoreReplies | None" = None,
        **settings: Any,
    ) -> None:
        self._lengths = lengths
        self._score_replies = score_replies
        self._watch = Watch()
        callbacks: list[TrainerCallback] = [self._watch]
        if patience is not None:
            callbacks.append(EarlyStoppingCallback(patience))
        super().__init__(args=args, callbacks=callbacks, **settings)
        self.remove_callback(PrinterCallback)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **settings: Any) -> torch.Tensor:
        """As its parent's, of one batch."""
        self._batch = inputs["input_ids"]
        loss: torch.Tensor = super().training_step(model, inputs, *arguments, **settings)
        if not torch.isfinite(loss) or loss == 0:
            raise NotFiniteError("the loss", loss.item(), self.state.global_step + 1, self._batch)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # In float16 an infinite gradient is an ordinary event: the scaler skips the step and lowers its scale.
        if norm is not None and not self.args.fp16 and not torch.isfinite(torch.as_tensor(norm)):
            raise NotFiniteError("the norm of the gradient", float(norm), self.state.global_step + 1, self._batch)
        return norm

    def evaluation_loop(self, *arguments: Any, **settings: Any) -> Any:
        """As its parent's, with the scores of generated replies where they are asked for: before anybody looks at the metrics."""
        output = super().evaluation_loop(*arguments, **settings)
        if self._score_replies is not None:
            output.metrics.update(self._score_replies(self.model, self._watch.leave_if_told))
        return output

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        """As its parent's; ended by SIGTERM, it saves what was trained and leaves."""
        try:
            metrics: dict[str, float] = super().evaluate(*arguments, **settings)
        except TerminatedError:
            if self.state.global_step:
                self._save_checkpoint(self.model, trial=None)
                self.callback_handler.on_save(self.args, self.state, self.control)
            sys.exit(TERMINATED)
        return metrics

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Before the first step, and, of a training that was ended where one was due, before its next: that one counts too."""
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if skip_scheduler and self.state.global_step:
            self._determine_best_metric(metrics, trial)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _ByLength(rows, self._lengths, self.args.data_seed, lambda: int(self.state.epoch or 0))


class _ByLength(LengthGroupedSampler):
    """Transformers' sampler, whose order depends on seed and epoch alone, so that a resumed training sees the rows that are left.

    The parent draws from the global generator, which stands elsewhere when a training is resumed; and given no lengths it asks
    the dataset for each row, two minutes for a million of them.
    """

    def __init__(self, rows: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(rows, lengths=lengths)
        self._seed, self._epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch())
        order: Iterator[int] = super().__iter__()
        return order


class Watch(TrainerCallback):
    """Tells each logged number, marks checkpoints as whole, and on SIGTERM saves one after the running step, or in the middle of
    an evaluation, and exits.
    """

    def __init__(self) -> None:
        self._terminated = False
        self._first_step = 0
        self._step_began = 0.0
        self._seconds = 0.0  # in steps alone, not in evaluations

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first_step = state.global_step
        self._handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        signal.signal(signal.SIGTERM, self._handler)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        shown = [f"{key} {value:.4f}" for key, value in (logs or {}).items() if key in _SHOWN]
        if shown and state.is_world_process_zero:
            pace = self._pace(state, logs or {}) if "loss" in (logs or {}) else ""
            print(f"step {state.global_step}/{state.max_steps} {' '.join(shown)}{pace}", flush=True)

    def _pace(self, state: Any, logs: dict[str, float]) -> str:
        a_step = self._seconds / max(state.global_step - self._first_step, 1)
        left = (state.max_steps - state.global_step) * a_step
        return f", {logs.get('num_tokens', 0) / max(self._seconds, 1e-9):.0f} tokens/s, {left:.0f} s left"

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._seconds += time.monotonic() - self._step_began
        if self._agreed():
            control.should_save = True
            control.should_evaluate = False  # the resumed training does it

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.leave_if_told()

    def leave_if_told(self) -> None:
        """End an evaluation.

        Raises:
            TerminatedError: SIGTERM came.
        """
        if self._agreed():
            raise TerminatedError

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        terminated = self._agreed()
        _wait_for_all()  # each process writes its own random state
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        if terminated:
            print(f"SIGTERM: saved checkpoint-{state.global_step}", flush=True)
            sys.exit(TERMINATED)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._terminated = True

    def _agreed(self) -> bool:
        """Whether any process was told to end: all of them must save together."""
        if not _several():
            return self._terminated
        told = torch.tensor(int(self._terminated), device=_device_of_group())
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told)


_SHOWN = ("loss", "eval_loss", "eval_mean_token_accuracy", "eval_exact_match", "eval_chrf")


def _several() -> bool:
    group = torch.distributed
    return bool(group.is_available() and group.is_initialized() and group.get_world_size() > 1)


def _wait_for_all() -> None:
    if _several():
        torch.distributed.barrier()


def _device_of_group() -> str:
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
