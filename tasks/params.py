"""params.yaml as a whole. The only place for values; this module is its only reader."""

import os
from pathlib import Path, PurePosixPath
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from tasks.errors import ParamsError, one_line
from tasks.evaluation_sections import HYGIENE, REPLY_LOSS, Evaluate, Gate
from tasks.files import parse_yaml
from tasks.publishing_sections import Notify, Push, Recording, Retention, Timeouts
from tasks.sections import (
    Drift,
    FolderBase,
    Guidelines,
    HubBase,
    Prepare,
    Section,
    Validate,
    WheelBase,
)
from tasks.training_section import Train


class Params(Section):
    """The whole of params.yaml, one section a stage. `validation` is the section `validate`, a name that pydantic keeps."""

    base: WheelBase | HubBase | FolderBase = Field(discriminator="source")
    validation: Validate = Field(alias="validate")
    guidelines: Guidelines | None
    drift: Drift
    prepare: Prepare
    train: Train
    evaluate: Evaluate
    gate: Gate
    push: Push
    record: Recording
    notify: Notify
    retention: Retention
    timeouts: Timeouts

    @model_validator(mode="after")
    def _rules_are_part_of_the_data(self) -> Self:
        raw = PurePosixPath(self.validation.raw)
        files = {"validate.expectations": self.validation.expectations}
        if self.guidelines:
            files["guidelines.policy"] = self.guidelines.policy
        for name, path in files.items():
            if path and not PurePosixPath(os.path.normpath(path)).is_relative_to(raw):
                raise ValueError(f"{name} must lie below validate.raw ({raw}), so that a change of it is a change of the data")
        return self

    @model_validator(mode="after")
    def _replay_has_rows_and_a_share(self) -> Self:
        if (self.validation.replay is None) is (self.prepare.replay_share > 0):
            raise ValueError("prepare.replay_share: above 0 where validate.replay names a folder, 0 where that is null")
        return self

    @model_validator(mode="after")
    def _published_data_hold_no_secret(self) -> Self:
        if self.record.dataset_repo_id is not None and self.validation.secrets == "allow":
            raise ValueError("record.dataset_repo_id: publishes the rows, so validate.secrets must be quarantine or mask")
        return self

    @model_validator(mode="after")
    def _an_adapter_names_its_base(self) -> Self:
        if not self.train.merge and not isinstance(self.base, HubBase):
            raise ValueError("train.merge: false needs base.source: hub, since an adapter names its base model by its repository")
        return self

    @model_validator(mode="after")
    def _scorers_have_what_they_need(self) -> Self:
        if not self.guidelines:
            for name, scorer in self.evaluate.scorers.items():
                if scorer.type == "guidelines":
                    raise ValueError(
                        f"evaluate.scorers.{name}: of the type guidelines, and guidelines is null; take another type"
                    )
        return self

    @model_validator(mode="after")
    def _gate_judges_what_is_scored(self) -> Self:
        scored, tasks = self.evaluate.reply_metrics, [task.task for task in self.evaluate.target_tasks]
        wanted = {"learned": [*(name for name in scored if name not in HYGIENE), REPLY_LOSS, *tasks], "smoke": scored}
        for rule, known in wanted.items():
            if unknown := [name for name in getattr(self.gate, rule) if name not in known]:
                raise ValueError(f"gate.{rule}: found {', '.join(unknown)}, wanted any of {', '.join(known)}")
        if unjudged := [name for name in tasks if name not in self.gate.learned]:
            raise ValueError(f"gate.learned: lacks {', '.join(unjudged)} of evaluate.target_tasks: what is scored is judged")
        if self.gate.learned.keys() <= self.evaluate.judges:
            raise ValueError("gate.learned: only metrics of a judge; it never decides alone, so name another metric beside it")
        return self


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing, not YAML, or has faults; every fault is listed with its path and what was wanted.
    """
    return parse_params(read_yaml(path), path.name)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain values.

    Raises:
        ParamsError: the file is missing, not YAML, or not a mapping.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; a workspace needs it, take the one of this project as a start") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not YAML: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{path}: found {type(tree).__name__}, wanted a mapping of sections")
    return tree


def parse_params(tree: dict[str, Any], origin: str) -> Params:
    """Check a tree of plain values; `origin` names it in messages.

    Raises:
        ParamsError: as `load_params`.
    """
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        faults = [_describe(fault) for fault in error.errors() if not _follows(fault)]
    raise ParamsError(f"{origin}: {len(faults)} fault{'s'[: len(faults) > 1]}; nothing was run\n" + "\n".join(faults))


def _follows(fault: Any) -> bool:
    """Whether a list or mapping is only too short because pydantic left out its faulty members, which are named themselves."""
    return bool(fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"])


def _describe(fault: Any) -> str:
    sources, place = {"wheel", "hub", "folder"}, list(fault["loc"])
    if place[:2] == ["evaluate", "scorers"]:
        del place[3:4]  # the type of the scorer, which pydantic puts after its name
    path = ".".join(str(part) for part in place if part not in sources) or "(whole file)"
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key; remove it or correct its spelling"
    if fault["type"] == "missing":
        return f"{path}: missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{path}: found {fault['input']!r}; {message}" if fault["loc"] else message
