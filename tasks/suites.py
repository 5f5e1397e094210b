"""Look at everything that models will be scored by, before the first of them is loaded: eval suites item by item, and scorers.

python -m tasks.suites
"""

import sys
from pathlib import Path

from tasks.eval_tasks import fresh_datasets_cache, load_tasks, protected_texts
from tasks.evaluation_records import SuitesReport
from tasks.evaluation_sections import Evaluate
from tasks.files import sha256_file
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.scorers import check_scorers


def suites(section: Evaluate, folder: Path, target: Path, record: Path) -> SuitesReport:
    """Write data/suites/items.parquet, name and normalised text of every item, which `prepare` keeps out of training; the record.

    Args:
        folder: data/eval.

    Raises:
        ParamsError: a scorer lacks its file, its function or what else it names.
        DataError: an eval suite cannot be scored; every fault is named.
        NetworkError: items lie on the Hub, which cannot be reached.
    """
    check_scorers(section, folder)
    with fresh_datasets_cache():
        tasks = load_tasks(section, folder)
        _write_texts(target, dict(protected_texts(tasks)))
        described = [task.described() for task in tasks]
    return SuitesReport(tasks=described, items_sha256=sha256_file(target)).write(record)


def _write_texts(path: Path, texts: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item": list(texts), "text": list(texts.values())}), path)


def _run(workspace: Workspace, params: Params) -> SuitesReport:
    return suites(params.evaluate, workspace.data / "eval", workspace.suites, workspace.record("suites"))


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
