"""`refit clean` on a real cache of DVC: what is named stays, what nothing names goes."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from dvc.cli import main as dvc

from flows.cli import main as refit
from tasks.paths import Workspace
from tests.conftest import REPO, edit_params, git


def version(place: Workspace, rows: int) -> Path:
    """Have DVC keep so many rows; where its cache has the folder's listing."""
    raw = place.data / "raw"
    raw.mkdir(exist_ok=True)
    (raw / "a.jsonl").write_text('{"messages": []}\n' * rows)
    with chdir(place.root):
        assert dvc(["add", "--quiet", "data/raw"]) == 0
    digest: str = yaml.safe_load((place.data / "raw.dvc").read_text())["outs"][0]["md5"]
    return place.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


@pytest.mark.parametrize("in_git", [False, True])
def test_only_versions_that_nothing_names_go(in_git: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Four versions, of which git has the first two if there is one."""
    place = Workspace(tmp_path / "workspace")
    place.data.mkdir(parents=True)
    shutil.copy(REPO / "params.yaml", place.root)
    (place.root / "dvc.yaml").write_text("stages: {}\n")
    if in_git:
        git(place.root, "init")
    with chdir(place.root):
        assert dvc(["init", "--quiet", *([] if in_git else ["--no-scm"])]) == 0
    versions = []
    for rows in range(1, 5):
        versions.append(version(place, rows))
        if in_git and rows <= 2:
            git(place.root, "add", "--all")
            git(place.root, "commit", "--message", f"{rows} rows")
    assert all(listing.is_file() for listing in versions)

    capfd.readouterr()
    assert refit(["clean", "--json", "--workspace", str(place.root)]) == 0
    assert json.loads(capfd.readouterr().out) == {"removed": []}, "a cache is kept unless params.yaml gives it up"
    edit_params(place, {"retention.dvc_cache": "used"})
    assert refit(["clean", "--json", "--workspace", str(place.root)]) == 0
    (said,) = json.loads(capfd.readouterr().out)["removed"]
    assert said.startswith(".dvc/cache: ")
    assert [listing.is_file() for listing in versions] == [in_git, in_git, False, True]
    with chdir(place.root):
        assert dvc(["checkout", "--quiet", "--force"]) == 0, "the version of the workspace is whole"
    assert refit(["clean", "--workspace", str(place.root)]) == 0
    assert "nothing to remove" in capfd.readouterr().out
