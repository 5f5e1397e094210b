"""A training while it runs, in the dashboard: how far it is, how fast, and its curves so far."""

import re
import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import create_image_artifact, create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.reporting import image_url
from tasks.pictures import curves_svg

_STEP = re.compile(r"step (\d+)/(\d+) (.*)")
_LOSS = re.compile(r"\b(eval_loss|loss) ([0-9.]+)")
_PACE = re.compile(r", (\d+ tokens/s), (\d+) s left")
_PROGRESS_SECONDS, _PICTURE_SECONDS = 1.0, 10.0


class TrainingProgress:
    """Passes a training's output on to the log and keeps two artifacts up to date, the picture every ten seconds."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._curves: dict[str, list[tuple[float, float]]] = {"train loss": [], "eval loss": []}
        self._progress = _Artifact(_PROGRESS_SECONDS)
        self._picture = _Artifact(_PICTURE_SECONDS)
        self._failed = False

    def __call__(self, line: str) -> None:
        """Take one line of the output."""
        self._log(line)
        if (found := _STEP.match(line)) and not self._failed:
            try:
                self._show(found)
            except Exception as error:  # whatever it is: the training itself goes on
                self._failed = True
                self._log(f"the dashboard shows this training no further: {type(error).__name__}: {error}")

    def _show(self, found: re.Match[str]) -> None:
        done, total = int(found[1]), int(found[2])
        for name, value in _LOSS.findall(found[3]):
            self._curves["eval loss" if name == "eval_loss" else "train loss"].append((done, float(value)))
        if pace := _PACE.search(found[3]):
            text = f"{done} of {total} optimizer steps, {pace[1]}, {_minutes(int(pace[2]))} left"
            if done == total or self._progress.is_due():
                self._progress.show(100 * done / total, text, _create_progress)
        if self._picture.is_due():
            self._picture.show(image_url(curves_svg(self._curves, "step")), "Loss so far by optimizer step", _create_picture)


class _Artifact:
    """Created when it is first shown, then brought up to date; due when it was not for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._id: UUID | None = None
        self._shown = 0.0

    def is_due(self) -> bool:
        return self._id is None or time.monotonic() - self._shown >= self._seconds

    def show(self, data: float | str, description: str, create: "Callable[[float | str, str], UUID]") -> None:
        if self._id is None:
            self._id = create(data, description)
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._id, ArtifactUpdate(data=data, description=description))
        self._shown = time.monotonic()


def _create_progress(data: float | str, description: str) -> UUID:
    return _as_uuid(create_progress_artifact(progress=float(data), key="training", description=description))


def _create_picture(data: float | str, description: str) -> UUID:
    return _as_uuid(create_image_artifact(image_url=str(data), key="loss", description=description))


def _as_uuid(created: object) -> UUID:
    return created if isinstance(created, UUID) else UUID(str(created))


def _minutes(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
