"""What the dashboard shows of a training while it runs."""

import base64
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; the last one counts."""
    times = [100.0]
    monkeypatch.setattr("flows.training_progress.time.monotonic", lambda: times[-1])
    return times


def test_progress_and_picture_are_two_artifacts_that_are_kept_up_to_date(
    server: str, clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.training_progress import TrainingProgress

    lines: list[str] = []

    def shown() -> dict[str, dict[str, Any]]:
        with SyncPrefectClient(server) as client:
            keys = ArtifactFilter(key=ArtifactFilterKey(any_=["training", "loss"]))
            found = client.read_artifacts(artifact_filter=keys, sort=ArtifactSort.CREATED_DESC)
        mine = [artifact for artifact in found if artifact.flow_run_id is None]
        assert len(mine) == len({artifact.key for artifact in mine})
        return {str(artifact.key): artifact.model_dump() for artifact in mine}

    with temporary_settings({PREFECT_API_URL: server}):
        progress = TrainingProgress(lines.append)
        progress("lora in float32 on cpu")
        assert shown() == {}
        progress("step 0/400 eval_loss 4.0000 eval_mean_token_accuracy 0.1000")
        progress("step 1/400 loss 3.5000, 480 tokens/s, 798 s left")
        first = shown()
        assert first["training"]["data"] == 0.25
        assert first["training"]["description"] == "1 of 400 optimizer steps, 480 tokens/s, 13 min left"
        clock.append(105.0)
        progress("step 3/400 loss 3.2500, 490 tokens/s, 7941 s left")
        assert shown()["training"]["description"] == "3 of 400 optimizer steps, 490 tokens/s, 2.2 h left"
        assert shown()["loss"]["data"] == first["loss"]["data"], "the picture is drawn anew every ten seconds"
        clock.append(111.0)
        progress("step 5/400 loss 3.0000, 490 tokens/s, 90 s left")
    picture = base64.b64decode(str(shown()["loss"]["data"]).partition("base64,")[2]).decode()
    assert picture.count("<polyline") == 2
    assert "step 5</text>" in picture
    assert len(lines) == 5
