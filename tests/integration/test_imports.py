import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.unit.test_architecture import HEAVY, SUBCLASSES

ROOT = Path(__file__).parents[2]


def loaded_with(modules: Sequence[str]) -> set[str]:
    """All modules of a process of its own that imports these."""
    program = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert set(modules) <= loaded
    return loaded


def modules_of(package: str) -> list[str]:
    return sorted(f"{package}.{path.stem}" for path in (ROOT / package).glob("*.py") if path.stem != "__init__")


def test_every_flow_module_loads_with_prefect_and_nothing_heavier() -> None:
    modules = modules_of("flows")
    assert "flows.retrain" in modules
    loaded = loaded_with(modules)
    assert "prefect" in loaded
    assert not loaded & HEAVY


def test_tasks_and_the_command_line_import_nothing_heavy() -> None:
    """What a function imports does not count, what a library drags in does."""
    modules = [module for module in modules_of("tasks") if module != SUBCLASSES]
    assert len(modules) > 20
    loaded = loaded_with([*modules, "flows.cli"])  # the console script
    assert not (loaded & (HEAVY | {"prefect"})), "import it inside the function that uses it"
