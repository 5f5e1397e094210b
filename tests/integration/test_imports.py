import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "great_expectations", "lm_eval", "dvc", "pyarrow", "pandas", "numpy"}


def test_every_flow_module_loads_with_prefect_and_nothing_heavier() -> None:
    modules = sorted(f"flows.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__")
    assert "flows.retrain" in modules
    program = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert {*modules, "prefect"} <= loaded
    assert not loaded & HEAVY
