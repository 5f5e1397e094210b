"""The scorer against lm-eval's own model: the same numbers, fewer tokens through the network."""

import random
from pathlib import Path
from typing import Any

import pytest

from tasks.lm import load_models
from tasks.params import Evaluate

SECTION = Evaluate(
    dtype="float32", max_new_tokens=8, generation_batch_size=4, loglikelihood_batch_size=3, general_tasks=("anything",)
)


def requests() -> list[Any]:
    """Inputs of all lengths; some begin others or are equal, as those of a multiple-choice item."""
    draw = random.Random(7)
    tokens = [draw.randrange(3, 1000) for _ in range(2000)]
    contexts = [tokens[:40], tokens[:12], tokens[300:325], tokens[100:103], tokens[:1]]
    continuations = [[5], [6], [5, 6, 7, 8], [5, 6], tokens[500:520]]
    pairs = [(context, continuation) for context in contexts for continuation in continuations] + [(tokens[:40], tokens[40:45])]
    draw.shuffle(pairs)
    return [(("", ""), *pair) for pair in pairs]


def test_scores_are_those_of_hflm_for_less_work(tiny_base: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    _, scorer = load_models(tiny_base, "float32", "cpu", SECTION)
    seen: list[int] = []
    scorer.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].numel()))
    wanted = HFLM(pretrained=scorer.model, tokenizer=scorer.tokenizer, device="cpu", backend="causal", batch_size=3)
    expected = wanted._loglikelihood_tokens(requests(), disable_tqdm=True)
    theirs, seen[:] = sum(seen), []
    found = scorer._loglikelihood_tokens(requests(), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert sum(seen) < 0.75 * theirs


def test_what_is_too_long_loses_its_beginning_as_in_hflm_and_this_is_told(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.models.huggingface import HFLM

    _, scorer = load_models(tiny_base, "float32", "cpu", SECTION)
    long = [(("", ""), [3 + number % 900 for number in range(1500)], [5, 6, 7]), (("", ""), [5], [6])]
    wanted = HFLM(pretrained=scorer.model, tokenizer=scorer.tokenizer, device="cpu", backend="causal", batch_size=3)
    expected = wanted._loglikelihood_tokens(long, disable_tqdm=True)
    capsys.readouterr()
    assert [score for score, _ in scorer._loglikelihood_tokens(long)] == pytest.approx([score for score, _ in expected], rel=1e-5)
    assert "1 of 2 inputs are longer than the model's 1024 tokens" in capsys.readouterr().out


def test_a_greedy_continuation_is_told(tiny_base: Path) -> None:
    import torch

    _, scorer = load_models(tiny_base, "float32", "cpu", SECTION)
    context = [10, 20, 30]
    with torch.no_grad():
        best = int(scorer.model(torch.tensor([context])).logits[0, -1].argmax())
    found = scorer._loglikelihood_tokens([(("", ""), context, [best]), (("", ""), context, [(best + 1) % 1000])])
    assert [greedy for _, greedy in found] == [True, False]
    assert found[0][0] > found[1][0]
