"""params.yaml as a whole. The only place for values; this module is its only reader."""

import os
from pathlib import Path, PurePosixPath
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from tasks.errors import ParamsError
from tasks.files import parse_yaml
from tasks.publishing_sections import Notify, Push, Recording, Timeouts
from tasks.sections import (
    GUIDELINE_METRICS,
    PLAIN_METRICS,
    Drift,
    Evaluate,
    FolderBase,
    Gate,
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
    timeouts: Timeouts

    @model_validator(mode="after")
    def _rules_are_part_of_the_data(self) -> Self:
        raw = PurePosixPath(self.validation.raw)
        files = {"validate.expectations": self.validation.expectations, "validate.replay": self.validation.replay}
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
    def _an_adapter_names_its_base(self) -> Self:
        if not self.train.merge and not isinstance(self.base, HubBase):
            raise ValueError("train.merge: false needs base.source: hub, since an adapter names its base model by its repository")
        return self

    @model_validator(mode="after")
    def _gate_fits_the_guidelines(self) -> Self:
        known = GUIDELINE_METRICS if self.guidelines else PLAIN_METRICS
        if self.gate.learned.metric not in known:
            raise ValueError(f"gate.learned.metric: found {self.gate.learned.metric}, wanted one of {', '.join(known)}")
        if (self.gate.smoke.min_structure_rate is None) is bool(self.guidelines):
            raise ValueError("gate.smoke.min_structure_rate: a share where there are guidelines, null where there are none")
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
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
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
        faults = [_describe(fault) for fault in error.errors()]
    raise ParamsError(f"{origin}: {len(faults)} fault{'s'[: len(faults) > 1]}; nothing was run\n" + "\n".join(faults))


def _describe(fault: Any) -> str:
    sources = {"wheel", "hub", "folder"}
    path = ".".join(str(part) for part in fault["loc"] if part not in sources) or "(whole file)"
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key; remove it or correct its spelling"
    if fault["type"] == "missing":
        return f"{path}: missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{path}: found {fault['input']!r}; {message}" if fault["loc"] else message
