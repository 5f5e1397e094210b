"""Publishing a model to the Hub beside a bare `upload_folder` of the same files, against a stand-in on the loopback interface.

python tests/benchmarks/publication.py [MEGABYTES] [ROUNDS]
"""

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.files import tree_digest
from tasks.hub_registry import HubRegistry
from tasks.hub_repository import HubRepository
from tests.hub import Hub

DOCUMENTS = {"README.md": b"# card\n", "decision.json": b"{}\n"}
_FORK = multiprocessing.get_context("fork")


def serve(folder: Path, pipe: Any) -> None:
    """In a process of its own, so that server and client do not share one interpreter."""
    with Hub(folder) as hub:
        pipe.send((hub.url, hub.token))
        pipe.recv()


def bare(url: str, token: str, repo_id: str, folder: Path, digest: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=url, token=token)
    for name, data in DOCUMENTS.items():
        (folder / name).write_bytes(data)
    api.create_repo(repo_id, private=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder)
    for name in DOCUMENTS:
        (folder / name).unlink()


def published(url: str, token: str, repo_id: str, folder: Path, digest: str) -> None:
    from huggingface_hub import HfApi

    registry = HubRegistry(HubRepository(repo_id, HfApi(endpoint=url, token=token)), private=True)
    registry.publish(folder, digest, DOCUMENTS, None, "benchmark")


def measure(work: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    """Seconds that the work takes in a child process, and the largest memory of that in MB."""

    def child() -> None:
        import huggingface_hub.hf_api  # what both need before they begin

        assert huggingface_hub.hf_api
        start = time.perf_counter()
        work(*arguments)
        taken.put(time.perf_counter() - start)

    taken = _FORK.SimpleQueue()
    process = _FORK.Process(target=child)
    process.start()
    watched, peak = psutil.Process(process.pid), 0
    while process.is_alive():
        with suppress(psutil.NoSuchProcess):
            peak = max(peak, watched.memory_info().rss)
        process.join(0.02)
    assert process.exitcode == 0
    return taken.get(), peak / 2**20


def main() -> None:
    megabytes, rounds = (int(word) for word in (*sys.argv[1:], *("270", "8")[len(sys.argv) - 1 :]))
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    scratch = Path(tempfile.mkdtemp(prefix="refit-"))
    os.environ["HF_HOME"] = str(scratch / "hf")
    model = scratch / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with (model / "model.safetensors").open("wb") as weights:
        for _ in range(megabytes):
            weights.write(os.urandom(1 << 20))
    digest = tree_digest(model)
    times: dict[str, list[float]] = {"upload_folder": [], "publish": []}
    peaks: dict[str, float] = dict.fromkeys(times, 0.0)
    try:
        here, there = _FORK.Pipe()
        server = _FORK.Process(target=serve, args=(scratch / "hub", there))
        server.start()
        url, token = here.recv()
        for number in range(rounds):
            pair = [("upload_folder", bare), ("publish", published)]
            for name, work in pair if number % 2 else pair[::-1]:
                seconds, peak = measure(work, url, token, f"quillmere/{name}-{number}", model, digest)
                times[name].append(seconds)
                peaks[name] = max(peaks[name], peak)
                for stored in (scratch / "hub" / "objects").iterdir():  # or the next one would have nothing to send
                    stored.unlink()
        here.send("end")
        server.join()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<14} {seconds:6.2f} s (median of {rounds}), peak memory {peaks[name]:5.0f} MB")
    ratio = medians["upload_folder"] / medians["publish"]
    print(f"publish of {megabytes} MB goes at {ratio:.2f} of the pace of a bare upload_folder")


if __name__ == "__main__":
    main()
