"""One saved model as lm-eval sees it: a generator that tells which replies were cut, and a scorer of log-likelihoods."""

from itertools import islice
from pathlib import Path
from typing import Any

from tasks.params import Evaluate
from tasks.suites import CUT


def load_models(folder: Path, dtype: str, device: str, section: Evaluate) -> tuple[Any, Any]:
    """The generator and the scorer, two lm-eval models with one set of weights."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Generator(HFLM):
        """Marks the replies that were cut off by the length limit; lm-eval itself does not tell."""

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            text: str = super().tok_decode(tokens, skip_special_tokens)
            return text if isinstance(tokens, int) or self.eot_token_id in tokens else text + CUT

    class Scorer(HFLM):
        """HFLM's log-likelihoods for less work.

        Logits are computed where a continuation is, and an input that begins another one, as those of an item's choices often
        do, needs no forward pass of its own.
        """

        def _loglikelihood_tokens(
            self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
            for batch in _batches(requests, self.max_length, override_bs or self.batch_size):
                width = len(batch[0][0])
                first = min(start for _, spans in batch for _, start, _ in spans)
                inputs = [tokens + (width - len(tokens)) * (self.eot_token_id,) for tokens, _ in batch]
                keep = torch.arange(first, width, device=self.device)
                with torch.inference_mode():
                    logits = self.model(torch.tensor(inputs, device=self.device), logits_to_keep=keep).logits
                for row, (_, spans) in zip(logits, batch, strict=True):
                    for number, start, continuation in spans:
                        part = row[start - first : start - first + len(continuation)].float().log_softmax(-1)
                        wanted = torch.tensor(continuation, device=self.device)
                        score = part.gather(1, wanted[:, None]).sum()
                        results[number] = float(score), bool((part.argmax(-1) == wanted).all())
            return results

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    common = {"pretrained": model, "tokenizer": AutoTokenizer.from_pretrained(folder), "device": device, "backend": "causal"}
    return Generator(**common, batch_size=section.generation_batch_size), Scorer(
        **common, batch_size=section.loglikelihood_batch_size
    )


Span = tuple[int, int, list[int]]
Batch = list[tuple[tuple[int, ...], list[Span]]]


def _batches(requests: list[Any], max_length: int, size: int) -> list[Batch]:
    """Inputs with the spans to score in them, the longest first.

    A span is (number of the request, position that predicts its first token, its tokens). As in HFLM the last token is no input,
    and what is too long for the model loses its beginning.
    """
    inputs = [tuple((context + continuation)[-(max_length + 1) :][:-1]) for _, context, continuation in requests]
    if cut := sum(len(context) + len(continuation) > max_length + 1 for _, context, continuation in requests):
        print(
            f"{cut} of {len(requests)} inputs are longer than the model's {max_length} tokens; their beginning is cut off",
            flush=True,
        )
    spans: dict[tuple[int, ...], list[Span]] = {}
    host: tuple[int, ...] = ()
    for number in sorted(range(len(requests)), key=inputs.__getitem__, reverse=True):  # what begins another comes after it
        tokens, continuation = inputs[number], requests[number][2]
        if host[: len(tokens)] != tokens:
            host = tokens
        spans.setdefault(host, []).append((number, len(tokens) - len(continuation), continuation))
    stream = iter(sorted(spans.items(), key=lambda item: -len(item[0])))
    return list(iter(lambda: list(islice(stream, size)), []))
