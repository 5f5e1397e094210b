"""What each stage leaves behind: one small JSON file, written last. Its presence means that the stage finished.

On disk a record is DVC's metric, in a flow it is the task's return value. Only relative paths, hashes and small numbers.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import StageInputError
from tasks.files import write_json


class Record(BaseModel):
    """Base of all records: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def write(self, path: Path) -> Self:
        """Write atomically and return itself, so that a stage ends with `return Record(...).write(path)`."""
        write_json(path, self.model_dump(mode="json"))
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record of this type.

        Raises:
            StageInputError: the file is missing or is not such a record.
        """
        stage = path.stem
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise StageInputError(
                f"{path}: missing, so the stage {stage} has not finished; run `dvc repro` or `refit run`"
            ) from None
        except ValidationError as error:
            raise StageInputError(
                f"{path}: not a {cls.__name__} ({error.error_count()} faults, first: {error.errors()[0]['msg']}); "
                f"run the stage {stage} again"
            ) from None

    def summary(self) -> str:
        """One line for the log."""
        raise NotImplementedError(type(self).__name__)


_SCORING = ("torch", "transformers", "tokenizers", "lm_eval")


class Environment(Record):
    """Where something was computed."""

    python: str
    platform: str
    device: str
    threads: int
    git_commit: str | None
    packages: dict[str, str]

    @property
    def scoring_packages(self) -> dict[str, str]:
        """Those that decide a score, with their versions."""
        return {name: self.packages[name] for name in _SCORING if name in self.packages}


class BaseModelRecord(Record):
    """Of `base`: the model that training starts from, as safetensors with tokenizer and chat template in data/base."""

    source: str
    digest: str
    files: dict[str, str]
    n_parameters: int

    def summary(self) -> str:
        return f"base model {self.source}: {self.n_parameters:,} parameters, digest {self.digest[:12]}"


class ExpectationResult(Record):
    """One Great Expectations result in short."""

    expectation: str
    column: str | None
    success: bool
    severity: str
    unexpected_count: int | None
    detail: str


class ValidationReport(Record):
    """Of `validate`. n_raw = n_accepted + n_quarantined = sum over reasons + n_accepted; `masked`: kind -> accepted rows."""

    raw_files: dict[str, str]
    n_raw: int
    n_accepted: int
    n_quarantined: int
    reasons: dict[str, int]
    masked: dict[str, int]
    expectations: list[ExpectationResult]
    tokenizer_digest: str
    accepted_sha256: str
    quarantine_sha256: str

    def summary(self) -> str:
        masked = "".join(f", {rows} with a masked {kind}" for kind, rows in self.masked.items())
        return (
            f"{self.n_raw} raw rows: {self.n_accepted} accepted{masked}, {self.n_quarantined} quarantined "
            f"({len(self.reasons)} reasons)"
        )


class DriftedFeature(Record):
    """One feature of the data against the version before: a distance in [0, 1], and the chance of one as large without drift.

    `moved` has the values whose shares changed most, in words.
    """

    feature: str
    distance: float
    max_distance: float
    p_value: float
    drifted: bool
    moved: list[str]


class DriftReport(Record):
    """Of `drift`: against the data of the published version `reference`, None if there is none of other data."""

    accepted_sha256: str
    reference: str | None
    features: list[DriftedFeature]

    def summary(self) -> str:
        if self.reference is None:
            return "no published version of other data to compare with"
        drifted = [feature for feature in self.features if feature.drifted]
        if not drifted:
            return f"no drift against the data of {self.reference}"
        lines = (
            f"\n  {feature.feature}: distance {feature.distance:.2f}, allowed {feature.max_distance:.2f}"
            + "".join(f"; {value}" for value in feature.moved)
            for feature in drifted
        )
        return f"drift of {len(drifted)} features against the data of {self.reference}" + "".join(lines)


class SplitStatistics(Record):
    """Of one split; tokens with the base model's tokenizer and chat template."""

    rows: int
    messages: int
    tokens: int
    supervised_tokens: int
    max_tokens: int


class PreparedDataset(Record):
    """Of `prepare`. n_accepted = rows of the three splits + sum over `dropped`; `n_replayed` of those of `train` are replayed."""

    accepted_sha256: str
    n_accepted: int
    dropped: dict[str, int]
    n_conflicts: int
    n_replayed: int
    splits: dict[str, SplitStatistics]
    files: dict[str, str]

    def summary(self) -> str:
        splits = ", ".join(f"{name} {split.rows}" for name, split in self.splits.items())
        replayed = f" ({self.n_replayed} of train are replayed)" if self.n_replayed else ""
        dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in self.dropped.items() if count) or "none"
        conflicts = f"; {self.n_conflicts} prompts have more than one reply" if self.n_conflicts else ""
        return f"{self.n_accepted} accepted rows: {splits}{replayed}; dropped: {dropped}{conflicts}"


class TrainedModel(Record):
    """Of `train`: the merged model in data/model, the exact bytes that would be published.

    It started from the base model, or from `start_version`; `per_device_train_batch_size` and `gradient_accumulation_steps` are
    those that memory allowed; `merge_error` is the difference that merging made to the logits, as a share of their norm.
    """

    digest: str
    base_digest: str
    start_digest: str
    start_version: str | None
    train_sha256: str
    method: str
    dtype: str
    seed: int
    n_parameters: int
    n_trainable: int
    steps: int
    best_step: int | None
    epochs: float
    n_processes: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    train_loss: float
    eval_loss_before: float
    eval_loss_after: float
    merge_error: float | None
    seconds: float
    environment: Environment

    def summary(self) -> str:
        start = f" from {self.start_version}" if self.start_version else ""
        best = f", taken at step {self.best_step}" if self.best_step else ""
        return (
            f"trained {self.steps} steps{start} ({self.method}, {self.dtype}){best} in {self.seconds:.0f} s: "
            f"eval loss {self.eval_loss_before:.3f} -> {self.eval_loss_after:.3f}, digest {self.digest[:12]}"
        )


class PushReceipt(Record):
    """Of `push`. `published` is False where this very model was the champion already, or only proposed by `pull_request`;
    `version` is None for as long as it waits there. `override` is why it was published though the gate did not pass it.
    """

    registry: str
    version: str | None
    digest: str
    previous_version: str | None
    published: bool
    pull_request: str | None
    override: str | None

    def summary(self) -> str:
        if self.pull_request is not None:
            return f"{self.digest[:12]} waits to be merged in {self.pull_request}"
        done = f"{'published' if self.published else 'already published'} {self.version} ({self.digest[:12]}) to {self.registry}"
        return f"{done}, over the gate's decision: {self.override}" if self.override else done


class VersionRecord(Record):
    """Of `record`: where a published version was written down."""

    version: str
    digest: str
    git_branch: str | None
    git_tag: str | None
    git_commit: str | None
    git_remote: str | None
    dvc_remote: str | None
    dataset_repo_id: str | None

    def summary(self) -> str:
        places = [
            f"git tag {self.git_tag} on {self.git_branch}" if self.git_tag else "",
            f"git remote {self.git_remote}" if self.git_remote else "",
            f"DVC remote {self.dvc_remote}" if self.dvc_remote else "",
            f"dataset {self.dataset_repo_id}" if self.dataset_repo_id else "",
        ]
        return f"{self.version} written down: {', '.join(filter(None, places)) or 'nowhere, as params.yaml has it'}"
