"""`refit status` asks DVC itself, and tells a person what is wrong with a folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.repro import STAGES
from tests.conftest import REPO

PROGRAM = """
import json, sys
from flows.cli import main
codes = [main(["status", "--json", "--workspace", name]) for name in sys.argv[1:]]
print(json.dumps({"codes": codes, "loaded": sorted({"prefect", "torch", "transformers"} & set(sys.modules))}), file=sys.stderr)
"""


def test_status_asks_dvc_itself_and_never_loads_prefect(tmp_path: Path) -> None:
    """In a process of its own: in a good workspace, in one where DVC was not set up, in one whose dvc.yaml it cannot read."""
    places = [tmp_path / name for name in ("good", "without", "broken")]
    for place in places:
        (place / ".dvc").mkdir(parents=True)
        (place / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(REPO / name, place)
    shutil.rmtree(tmp_path / "without" / ".dvc")
    (tmp_path / "broken" / "dvc.yaml").write_text("stages: [")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told == {
        "stale": list(STAGES),
        "decision": None,
        "waits_for_approval": None,
        "champion": None,
        "candidate_is_champion": False,
        "data_wait": True,
        "server": None,
    }
    without, broken, last = done.stderr.splitlines()
    assert json.loads(last) == {"codes": [0, 2, 2], "loaded": []}
    assert f"{tmp_path / 'without'}: DVC does not know this folder; run `dvc init" in without
    assert f"{tmp_path / 'broken'}" in broken
    assert "dvc.yaml" in broken
