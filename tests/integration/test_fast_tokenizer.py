"""fastokens gives the tokens and labels of the tokenizer itself, or none: on any text, for any byte-level BPE, and for others."""

import sys
import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tasks.chat import Span, Tokens, labelled
from tasks.errors import BaseModelError
from tasks.fast_tokenizer import FastTokenizer

CORPUS = [
    "When does the blue one arrive? On 12 March, or you'll get 4.50 back.",
    "환불은 5일 안에 처리됩니다.",
    "naïve café 👍🏽",
] * 5
SPECIALS = ["<|im_start|>", "<|im_end|>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}


def trained(split: Any, alphabet: list[str], normalizer: Any = None) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return SimpleNamespace(backend_tokenizer=tokenizer)


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENIZERS = {
    **{name: trained(split, BYTES) for name, split in SPLITS.items()},
    "qwen": trained(SPLITS["llama3"], BYTES, normalizers.NFC()),
    "without some bytes": trained(SPLITS["gpt2"], sorted({*BYTES} - {chr(0x100 + byte) for byte in range(9)})),  # as SmolLM2's,
}
FAST = {name: FastTokenizer.make(tokenizer) for name, tokenizer in TOKENIZERS.items()}
WORDS = st.sampled_from(
    [*" ".join(CORPUS).split(), *SPECIALS, "\n", "  ", "\t \n\n", "1234", "'LL", "ﬁ", "e\u0301", "\u200b", "日本"]
)
TEXTS = st.lists(WORDS | st.text(st.characters(codec="utf-8"), max_size=5), max_size=12).map("".join)


@st.composite
def marked(draw: st.DrawFn) -> tuple[str, list[Span]]:
    """A text and some spans of it that do not overlap."""
    text = draw(TEXTS)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return text, list(zip(places[::2], places[1::2], strict=False))


def lists(tokens: Tokens | None) -> Any:
    return tokens and [tokens["input_ids"].tolist(), tokens["labels"].tolist()]


def own(tokenizer: Any, text: str, spans: list[Span]) -> Any:
    return lists(labelled(spans, tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)))


@pytest.mark.parametrize("name", [*SPLITS, "qwen"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(marked(), min_size=1, max_size=5))
def test_tokens_and_labels_are_those_of_the_tokenizer(name: str, rows: list[tuple[str, list[Span]]]) -> None:
    tokenizer, fast = TOKENIZERS[name], FAST[name]
    assert fast is not None
    found = fast([text for text, _ in rows], [spans for _, spans in rows])
    for (text, spans), tokens in zip(rows, found, strict=True):
        if tokens is not None or unicodedata.is_normalized("NFC", text):
            assert lists(tokens) == own(tokenizer, text, spans)


def test_a_byte_without_a_token_is_left_to_the_tokenizer() -> None:
    """Which drops it without a word, so that its tokens are not the text's bytes."""
    tokenizer, fast = TOKENIZERS["without some bytes"], FAST["without some bytes"]
    assert fast is not None
    assert own(tokenizer, "a\x04b", []) == own(tokenizer, "ab", [])
    assert fast(["ab", "a\x04b"], [[(0, 1)], [(0, 1)]]) == [None, None]
    assert lists(fast(["ab"], [[(0, 1)]])[0]) == own(tokenizer, "ab", [(0, 1)])


def test_a_text_that_the_tokenizer_changes_first_is_left_to_it() -> None:
    """Even if it is as long as before: a mark that joins its letter saves the byte that another one takes."""
    fast, text = FAST["qwen"], "e\u0301 b a\u0344"
    assert fast is not None
    assert len(unicodedata.normalize("NFC", text).encode()) == len(text.encode())
    found = fast(["plain", text], [[(0, 3)], [(3, 7)]])
    assert lists(found[0]) == own(TOKENIZERS["qwen"], "plain", [(0, 3)])
    assert found[1] is None


def test_a_tokenizer_that_is_no_byte_level_bpe_is_left_alone() -> None:
    """One with other marks for blanks, one that changes the text first, one that trims the blanks from a token's place."""
    assert FastTokenizer.make(trained(pre_tokenizers.Metaspace(), [])) is None
    stripping = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    assert FastTokenizer.make(trained(SPLITS["gpt2"], BYTES, stripping)) is None
    trimming = trained(SPLITS["gpt2"], BYTES)
    trimming.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert FastTokenizer.make(trimming) is None


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    assert FastTokenizer.make(TOKENIZERS["gpt2"]) is None


def test_other_tokens_than_the_tokenizer_has_are_refused() -> None:
    fast, other = FastTokenizer.make(TOKENIZERS["gpt2"]), TOKENIZERS["smollm"]
    assert fast is not None
    fast._own = other.backend_tokenizer
    with pytest.raises(BaseModelError, match=r"other tokens .* a text of 4 characters; .*pip uninstall fastokens"):
        fast(["1234"], [[]])
    assert not fast._sees_the_same()
