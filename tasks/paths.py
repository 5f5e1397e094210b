"""Where everything of a workspace lies. A workspace is a folder with params.yaml, dvc.yaml and data/."""

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import InputError

ROLES = ("base", "champion", "best", "candidate")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The one place that knows file names; dvc.yaml's `outs` say the same and a test compares them."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Workspace":
        """The workspace that holds `start` (default: the current folder), looking upwards.

        Raises:
            InputError: no folder from `start` up to the root has a params.yaml and a dvc.yaml.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise InputError(
            f"{here}: no workspace here or above (wanted a folder with params.yaml and dvc.yaml); "
            "change to one or give --workspace FOLDER"
        )

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def lock(self) -> Path:
        """DVC's, the hashes of every input and output of each stage."""
        return self.root / "dvc.lock"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def base(self) -> Path:
        return self.data / "base"

    @property
    def accepted(self) -> Path:
        return self.data / "validated" / "accepted.parquet"

    @property
    def quarantine(self) -> Path:
        return self.data / "validated" / "quarantine"

    @property
    def data_docs(self) -> Path:
        return self.data / "validated" / "data_docs"

    @property
    def profile(self) -> Path:
        return self.data / "profile.json"

    @property
    def prepared(self) -> Path:
        return self.data / "prepared"

    @property
    def candidate(self) -> Path:
        return self.data / "model"

    @property
    def champion(self) -> Path:
        return self.data / "champion"

    @property
    def best(self) -> Path:
        """The best version ever published, where that is not the champion."""
        return self.data / "best"

    @property
    def suites(self) -> Path:
        """Texts of all items of the eval suites beside the test split."""
        return self.data / "suites" / "items.parquet"

    @property
    def plots(self) -> Path:
        return self.data / "plots"

    @property
    def decisions(self) -> Path:
        """Which items have judged which candidate; no stage's output, so that nothing removes it."""
        return self.data / "decisions.jsonl"

    @property
    def refusals(self) -> Path:
        """Candidates that a person refused."""
        return self.data / "refusals.jsonl"

    @property
    def report(self) -> Path:
        """The page for a person."""
        return self.data / "reports" / "report.html"

    @property
    def checkpoints(self) -> Path:
        """Outside every stage's outputs, since DVC deletes those before a stage runs."""
        return self.root / ".cache" / "checkpoints"

    @property
    def served(self) -> Path:
        """Where `refit serve` has its server, while it serves this workspace."""
        return self.root / ".cache" / "serve.json"

    @property
    def champion_start(self) -> Path:
        """The published model while a training starts from it."""
        return self.root / ".cache" / "start"

    def model(self, role: str) -> Path:
        """Folder of the model that is scored as `role`, one of ROLES."""
        published = {"champion": self.champion / "model", "best": self.best / "model"}
        return {"base": self.base, "candidate": self.candidate, **published}[role]

    def scores(self, role: str) -> Path:
        """Folder with items.parquet and answers.jsonl of one scored model."""
        return self.data / "scores" / role

    def record(self, stage: str) -> Path:
        """Record of a stage as named in dvc.yaml; `evaluate@base` becomes evaluate-base.json."""
        return self.data / "reports" / f"{stage.replace('@', '-')}.json"

    def relative(self, path: Path) -> str:
        """`path` as records and messages show it: relative to the workspace, POSIX."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
