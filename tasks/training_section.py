"""The section `train` of params.yaml, typed."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.sections import CountFrom1, RelativePath, Section, Share

ACCELERATE_CONFIGS = "deployments/accelerate"
LOWER_IS_BETTER = ("eval_loss",)
REPLY_METRICS = ("eval_exact_match", "eval_chrf")
"""Metrics that need replies to be generated while training."""

_TYPED = "set train.{name} itself"
_DATA = "the stages before prepared the rows, see validate and prepare"
_TEMPLATE = "set base.chat_template"
_PUSH = "the stage push publishes, and only what passed the gate"
_DEVICES = "name a file of `accelerate config` in train.accelerate_config"
_CHECKPOINTS = "train.eval_steps says when to evaluate and save, and a training is resumed by itself"
_BEST = "set train.metric_for_best_model"
_OWNED = {
    **dict.fromkeys(("dataset_kwargs", "dataset_text_field", "dataset_num_proc", "truncation_mode", "shuffle_dataset"), _DATA),
    **dict.fromkeys(("remove_unused_columns", "label_names", "length_column_name", "model_init_kwargs"), _DATA),
    "assistant_only_loss": "the loss counts on assistant messages always; see train.completion_only_loss",
    **dict.fromkeys(("chat_template_path", "eos_token", "pad_token"), _TEMPLATE),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision"), _PUSH),
    **dict.fromkeys(("hub_always_push", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _PUSH),
    "trust_remote_code": "code that comes with a model is never run",
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "local_rank", "use_cpu"), _DEVICES),
    **dict.fromkeys(
        ("output_dir", "resume_from_checkpoint", "enable_jit_checkpoint", "save_strategy", "save_steps"), _CHECKPOINTS
    ),
    **dict.fromkeys(("save_total_limit", "save_only_model", "eval_strategy", "eval_on_start", "ignore_data_skip"), _CHECKPOINTS),
    **dict.fromkeys(("load_best_model_at_end", "greater_is_better"), _BEST),
    **dict.fromkeys(("bf16", "fp16"), "set train.dtype"),
    "data_seed": "set train.seed",
    "per_device_eval_batch_size": "set train.per_device_train_batch_size",
    "auto_find_batch_size": "where memory runs out, the batch is halved and accumulation doubled by itself",
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "prediction_loss_only"), "the stage trains and evaluates"),
    **dict.fromkeys(("disable_tqdm", "logging_nan_inf_filter", "log_level", "log_level_replica"), "the run's log shows it all"),
}


class Lora(Section):
    """Names and meaning of peft.LoraConfig."""

    r: CountFrom1
    lora_alpha: CountFrom1
    lora_dropout: Share
    target_modules: str | tuple[str, ...] = Field(description='"all-linear" or module names')
    layers_to_transform: tuple[int, ...] | None = Field(description="layers that get an adapter; null: all")
    use_rslora: bool = Field(description="scale by lora_alpha / sqrt(r) (Kalajdzievski 2023) instead of lora_alpha / r")
    use_dora: bool = Field(description="train magnitude and direction apart (Liu et al. 2024)")


class Train(Section):
    """Names and meaning of trl.SFTConfig, but for what stands before `seed` and after `eval_steps`."""

    method: Literal["lora", "full", "qlora"] = Field(description="qlora: LoRA on a base in 4 bits; needs CUDA and bitsandbytes")
    start_from: Literal["base", "champion"] = Field(
        description="champion: go on from the published model where there is one; base: from the base model, always"
    )
    lora: Lora
    merge: bool = Field(description="true: the candidate is the merged model; false: the adapter alone, for a base of the Hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="auto: bfloat16 where this processor is fast at it; float16 needs CUDA"
    )
    seed: int = Field(ge=0)
    learning_rate: float = Field(gt=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_steps: float = Field(ge=0, description="steps, or a share of all steps if below 1")
    weight_decay: float = Field(ge=0, le=1)
    num_train_epochs: float = Field(gt=0, le=100)
    max_steps: int = Field(ge=-1, description="optimizer steps; -1: num_train_epochs decides")
    per_device_train_batch_size: CountFrom1
    gradient_accumulation_steps: CountFrom1
    completion_only_loss: bool = Field(description="true: only the last reply of a conversation teaches; false: all of them")
    logging_steps: CountFrom1
    eval_steps: CountFrom1 = Field(description="optimizer steps between evaluations on the eval split, each with a checkpoint")
    predict_with_generate: bool = Field(
        description="at each evaluation also generate the replies of the eval split: eval_exact_match and eval_chrf"
    )
    metric_for_best_model: Literal["eval_loss", "eval_mean_token_accuracy", "eval_exact_match", "eval_chrf"] | None = Field(
        description="the checkpoint that was best at it becomes the candidate; null: the last step does"
    )
    early_stopping_patience: CountFrom1 | None = Field(
        description="evaluations in a row without a better metric_for_best_model after which training ends; null: never"
    )
    checkpoints_gb: Annotated[float, Field(gt=0)] = Field(
        description="unfinished trainings may keep this many GB of checkpoints; those untouched for longest are dropped first"
    )
    accelerate_config: RelativePath | None = Field(
        description=f"file of `accelerate config` below {ACCELERATE_CONFIGS}: several devices; null: one"
    )
    sft: dict[str, Any] = Field(description="any other field of the installed trl.SFTConfig")

    @field_validator("max_steps")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be -1 or at least 1")
        return value

    @field_validator("accelerate_config")
    @classmethod
    def _among_the_dependencies(cls, value: str | None) -> str | None:
        if value is not None and (".." in value or not value.startswith(f"{ACCELERATE_CONFIGS}/")):
            raise ValueError(f"must lie below {ACCELERATE_CONFIGS}, so that a change of it is a change of the training")
        return value

    @field_validator("sft")
    @classmethod
    def _left_to_the_user(cls, value: dict[str, Any]) -> dict[str, Any]:
        typed = {name: _TYPED.format(name=name) for name in cls.model_fields}
        packs = ("max_length",) if not value.get("packing") else ()
        refused = {name: (typed | _OWNED).get(name, _DATA) for name in value if name in (*typed, *_OWNED, *packs)}
        if refused:
            raise ValueError("; ".join(f"{name} may not stand here: {reason}" for name, reason in refused.items()))
        if value.get("packing_strategy") == "wrapped":
            raise ValueError("packing_strategy: wrapped cuts rows and mixes them; take bfd")
        if value.get("packing") and not isinstance(value.get("max_length"), int):
            raise ValueError("packing needs max_length here too, the tokens of a packed row: at least validate.max_length")
        return value

    @model_validator(mode="after")
    def _an_adapter_is_of_the_base(self) -> Self:
        if not self.merge and (self.method == "full" or self.start_from != "base"):
            raise ValueError("merge: false needs method lora or qlora and start_from: base, since an adapter belongs to its base")
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model")
        if self.metric_for_best_model in REPLY_METRICS and not self.predict_with_generate:
            raise ValueError(f"metric_for_best_model: {self.metric_for_best_model} needs predict_with_generate: true")
        if self.predict_with_generate and self.accelerate_config is not None:
            raise ValueError("predict_with_generate works on one device: set it to false, or accelerate_config to null")
        return self
