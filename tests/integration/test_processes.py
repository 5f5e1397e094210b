"""What needs processes of its own: that a stage ends with its parent, that work on several cores comes back in order."""

import operator
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from tasks.contamination import contaminated
from tasks.dedupe import near_duplicates
from tasks.parallel import map_ordered, map_threads

ROOT = Path(__file__).parents[2]
DEATH_SECONDS = 20  # on a busy machine; it takes milliseconds


def wait_for_end(pipe: IO[bytes]) -> None:
    """Until every process that can write to the pipe is gone."""
    readable, _, _ = select.select([pipe], [], [], DEATH_SECONDS)
    assert readable, f"still alive after {DEATH_SECONDS} s"
    assert pipe.read1() == b""  # type: ignore[attr-defined]


# A stage that says "ready" on standard output and then waits for an end of input that the tests never give it, so that only
# `die_with_parent` can end it. Standard error stays open as long as it lives: reading it to the end waits for the death.
STAGE = "from tasks.process import die_with_parent; import sys; die_with_parent(); print('ready', flush=True); sys.stdin.read()"


def test_a_stage_whose_parent_is_killed_dies_too() -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's parent-death signal is Linux's; elsewhere the reader's death is what ends a stage")
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STAGE!r}])"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        wait_for_end(parent.stderr)  # the stage holds the same pipe


def test_a_stage_whose_reader_is_gone_dies_though_its_parent_lives() -> None:
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with stage:
        assert stage.stdout is not None
        assert stage.stderr is not None
        assert stage.stdout.readline() == b"ready\n"
        stage.stdout.close()
        wait_for_end(stage.stderr)
        assert stage.wait() == -signal.SIGKILL


def test_a_stage_whose_output_goes_to_a_file_lives_on(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", STAGE.replace("print", "sys.stdin.readline(); print")],
            cwd=ROOT,
            input=b"go\n",
            stdout=log,
            check=False,
        )
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == f"ready{os.linesep}"


DIVIDE = partial(partial, operator.floordiv, 12)  # called once in a process, it gives the function


def test_several_processes_give_the_same_and_read_only_a_little_ahead() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(1, 1000):
            read.append(number)
            yield number if number != 20 else 0

    results = map_ordered(DIVIDE, items(), 2)
    assert [next(results) for _ in range(19)] == [12 // number for number in range(1, 20)]
    assert len(read) < 30
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_making_the_function_is_itself_and_other_processes_work() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(partial(operator.floordiv, 1, 0), range(5), 2))
    assert os.getpid() not in set(map_ordered(partial(partial, _process), range(8), 2))


def _process(item: int) -> int:
    return os.getpid()


def test_threads_work_at_once_and_answer_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    both, read = threading.Barrier(2, timeout=60), []

    def items() -> Iterator[int]:
        for number in range(20):
            read.append(number)
            yield number

    def meet(number: int) -> tuple[int, int]:
        """The first ones pass only while another thread is at it."""
        if number < 10:
            both.wait()
        return 1 // (number - 11), number

    results = map_threads(meet, items())
    assert [number for _, number in (next(results) for _ in range(11))] == list(range(11))
    assert len(read) < 20
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_another_process_finds_the_same_near_duplicates() -> None:
    made = "[' '.join(f'w{(7 * row * place) % (11 + row % 5)}' for place in range(40)) for row in range(60)]"
    program = f"from tasks.dedupe import near_duplicates\nprint(near_duplicates({made}, 0.5))"
    command, environment = [sys.executable, "-c", program], {"PYTHONHASHSEED": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = near_duplicates([" ".join(f"w{(7 * row * place) % (11 + row % 5)}" for place in range(40)) for row in range(60)], 0.5)
    assert len(found) > 10
    assert done.stdout.strip() == repr(found)


@pytest.mark.parametrize("cores", [1, 3])
def test_any_number_of_processes_and_threads_finds_the_same(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(f"w{(7 * row * place) % (11 + row % 5)}" for place in range(40)) for row in range(3000)]
    protected = [(f"test:{row}", text) for row, text in enumerate(texts[:2000])]
    found, leaks = near_duplicates(texts, 0.5), contaminated(texts[1500:], protected, 0.8)
    assert len(found) > 100
    assert len(leaks) > 500
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert near_duplicates(texts, 0.5, processes=None) == found
    assert contaminated(texts[1500:], protected, 0.8) == leaks


def test_who_stops_reading_gets_no_traceback(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "flows.cli", "versions"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with os.fdopen(writes) as out:
        done = subprocess.run(command, cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, env=environment, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
