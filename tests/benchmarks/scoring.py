"""Log-likelihoods of the general suite by Refit's scorer and by lm-eval's own model, HFLM, on the base model in one run.

python tests/benchmarks/scoring.py      # needs data/base (`refit run` or `python -m tasks.base`)
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from tasks.environment import keep_freed_memory, pick_device, pick_dtype, work_offline
from tasks.lm import load_models
from tasks.params import load_params

REPO = Path(__file__).parents[2]
ITEMS, ROUNDS = 40, 3
"""Items of each ability; rounds in which each of the two scores all of them."""


def requests(scorer: Any) -> list[Any]:
    """Contexts and continuations as lm-eval asks for them, a request a choice."""
    found = []
    for path in sorted((REPO / "data" / "eval").glob("*.jsonl")):
        for row in map(json.loads, path.read_text().splitlines()[:ITEMS]):
            for choice in row["choices"]:
                context, continuation = scorer._encode_pair(row["prompt"], f" {choice}" if row["prompt"] else choice)
                found.append((("", ""), context or [scorer.prefix_token_id], continuation))
    return found


def seconds(model: Any, asked: list[Any]) -> tuple[float, list[float]]:
    began = time.perf_counter()
    scores = model._loglikelihood_tokens(asked, disable_tqdm=True)
    return time.perf_counter() - began, [score for score, _ in scores]


def main() -> None:
    work_offline()
    keep_freed_memory()
    from lm_eval.models.huggingface import HFLM

    section = load_params(REPO / "params.yaml").evaluate
    device = pick_device()
    _, scorer = load_models(REPO / "data" / "base", pick_dtype(section.dtype), device, section)
    peer = HFLM(
        pretrained=scorer.model,
        tokenizer=scorer.tokenizer,
        device=device,
        backend="causal",
        batch_size=section.loglikelihood_batch_size,
    )
    asked = requests(scorer)
    pairs = [(seconds(scorer, asked), seconds(peer, asked)) for _ in range(ROUNDS)]
    difference = max(abs(a - b) for (_, own), (_, theirs) in pairs for a, b in zip(own, theirs, strict=True))
    own, theirs = (statistics.median(times) for times in zip(*((a[0], b[0]) for a, b in pairs), strict=True))
    print(f"{len(asked)} log-likelihoods, median of {ROUNDS}: Refit {own:.1f} s, HFLM {theirs:.1f} s, ratio {own / theirs:.2f}")
    print(f"largest difference of a score: {difference:.1e}")


if __name__ == "__main__":
    main()
