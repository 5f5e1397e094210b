"""The sections of params.yaml about what comes after the gate and around a run: `push`, `record`, `notify`, `retention`,
`timeouts`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.sections import RelativePath, RepoId, Section


class Push(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the published model")
    registry: Literal["local", "hub"]
    path: RelativePath = Field(description="local: folder of the registry")
    repo_id: RepoId | None = Field(description="hub: NAMESPACE/NAME of the model repository, made where it is missing")
    private: bool = Field(description="whether repositories of the Hub are made as private ones")
    pull_request: bool = Field(description="hub: propose a version as a pull request, which a person merges there")
    license: str | None = Field(pattern=r"^[a-z0-9.-]+$", description="for the card: an identifier of the Hub; null: says none")
    require_approval: bool = Field(description="a candidate that passed the gate waits for a person: `refit approve`")

    approval_days: Annotated[float, Field(gt=0)] | None = Field(
        description="after which a candidate waits no longer; null: never"
    )

    @model_validator(mode="after")
    def _hub_has_a_repository(self) -> Self:
        if self.registry == "hub" and self.repo_id is None:
            raise ValueError("registry: hub needs repo_id, NAMESPACE/NAME of the model repository")
        if self.registry != "hub" and self.pull_request:
            raise ValueError("pull_request needs registry: hub; for a folder there is require_approval")
        return self


class Notify(Section):
    blocks: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")], ...] = Field(
        description="notification blocks of the Prefect server, TYPE/NAME, such as slack-webhook/team"
    )


class Retention(Section):
    versions: Annotated[int, Field(ge=1)] | None = Field(
        description="local: newest versions that stay, beside the champion and what it is measured by; null: all"
    )
    dvc_cache: Literal["all", "used"] = Field(
        description="used: what neither the workspace nor a commit of its git names is dropped from DVC's cache"
    )


Hours = Annotated[float, Field(gt=0, le=24 * 365)]


class Timeouts(Section):
    """By stage, the hours after which its processes are ended and the run fails."""

    suites: Hours
    base: Hours
    validation: Hours = Field(alias="validate")
    drift: Hours
    prepare: Hours
    train: Hours
    champion: Hours
    evaluate: Hours = Field(description="of one model")
    gate: Hours
    report: Hours
    push: Hours
    record: Hours

    def of(self, stage: str) -> float:
        """In seconds; `evaluate@base` is a part of `evaluate`."""
        name = stage.partition("@")[0]
        hours: float = getattr(self, "validation" if name == "validate" else name)
        return hours * 3600


class Recording(Section):
    """Where a published version is written down besides the registry; all null: nowhere."""

    git_branch: str | None = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="gets a commit with dvc.lock, and a tag NAME-vN; not the one checked out",
    )
    git_remote: str | None = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="gets that branch and tag")
    dvc_remote: str | None = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="gets data and model, by `dvc push`")
    dataset_repo_id: RepoId | None = Field(
        description="NAMESPACE/NAME of a dataset repository of the Hub; gets the prepared splits"
    )

    @model_validator(mode="after")
    def _remote_needs_a_branch(self) -> Self:
        if self.git_remote is not None and self.git_branch is None:
            raise ValueError("git_remote needs git_branch, the branch that is pushed there")
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return (self.git_branch, self.dvc_remote, self.dataset_repo_id) != (None, None, None)
