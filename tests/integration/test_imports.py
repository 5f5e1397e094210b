import subprocess
import sys
from pathlib import Path

from tests.unit.test_architecture import HEAVY

ROOT = Path(__file__).parents[2]


def test_every_flow_module_loads_with_prefect_and_nothing_heavier() -> None:
    modules = sorted(f"flows.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__")
    assert "flows.retrain" in modules
    program = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert {*modules, "prefect"} <= loaded
    assert not loaded & HEAVY


def test_tasks_and_the_command_line_import_nothing_heavy() -> None:
    """What a function imports does not count, what a library drags in does."""
    modules = sorted(
        f"tasks.{path.stem}" for path in (ROOT / "tasks").glob("*.py") if path.stem not in ("__init__", "sft_trainer")
    )
    assert len(modules) > 20
    modules.append("flows.cli")  # the console script
    program = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert set(modules) <= loaded
    assert not (loaded & (HEAVY | {"prefect"})), "import it inside the function that uses it"
