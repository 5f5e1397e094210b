"""Replies generated while a model trains, against the replies of the eval split: how often equal, and how alike."""

from collections.abc import Callable, Sequence
from typing import Any

_ROWS_AT_ONCE = 16


def last_reply(labels: Sequence[int]) -> tuple[int, int]:
    """Where the last run of supervised tokens stands, `(start, end)`: the last reply of a conversation, end-of-turn included."""
    end = next(place for place in range(len(labels), 0, -1) if labels[place - 1] != -100)
    start = next((place for place in range(end, 0, -1) if labels[place - 1] == -100), 0)
    return start, end


def generation_metrics(
    model: Any, before_each_batch: Callable[[], None], tokenizer: Any, rows: Sequence[dict[str, list[int]]]
) -> dict[str, float]:
    """Generate greedily after the prompt of each row's last reply; as many tokens as the longest reply of the rows has.

    Args:
        before_each_batch: called then; it may end the whole by raising.
        rows: `input_ids` and `labels` of whole conversations.

    Returns:
        `eval_exact_match`: share of replies equal to the row's but for blanks around them. `eval_chrf`: character n-gram F-score
        of the whole (Popović 2015, by sacrebleu), from 0 to 100; it needs no words, so it suits any language.
    """
    from sacrebleu.metrics.chrf import CHRF

    spans = [last_reply(row["labels"]) for row in rows]
    prompts = [row["input_ids"][:start] for row, (start, _) in zip(rows, spans, strict=True)]
    wanted = [row["input_ids"][start:end] for row, (start, end) in zip(rows, spans, strict=True)]
    longest = max(map(len, wanted))
    replies: list[str] = []
    for at in range(0, len(prompts), _ROWS_AT_ONCE):
        before_each_batch()
        replies += _generate(model, tokenizer, prompts[at : at + _ROWS_AT_ONCE], longest)
    references = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in wanted]
    equal = sum(reply == reference for reply, reference in zip(replies, references, strict=True))
    return {
        "eval_exact_match": equal / len(replies),
        "eval_chrf": CHRF().corpus_score(replies, [references]).score,
    }


def _generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    import torch

    width = max(map(len, prompts))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[padding] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    training = model.training
    model.eval()
    with torch.no_grad():  # not inference_mode: what the model caches meanwhile is used in training
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=padding,
        )
    model.train(training)
    return [text.strip() for text in tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]
