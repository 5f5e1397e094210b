"""From messages to tokens, with the assistant's tokens marked, for any chat template that only ever appends."""

from collections.abc import Sequence
from typing import Any, TypedDict

from tasks.errors import DataError


class Message(TypedDict):
    """One message of a conversation, as in TRL's conversational format."""

    role: str
    content: str


class Tokens(TypedDict):
    """`input_ids` of a whole conversation, and `labels`: the same ids where the loss counts, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode(messages: Sequence[Message], tokenizer: Any) -> Tokens:
    """Tokenise a conversation and label the tokens of every assistant message, up to and including its end-of-turn token.

    The spans are found by rendering the template up to each assistant message, so that no `{% generation %}` marks are needed.

    Raises:
        DataError: the template changes earlier text when a message is added, or an end-of-turn token is not among the labels.
    """
    text = _render(messages, tokenizer)
    spans = [
        _assistant_span(messages, index, text, tokenizer)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    labels = [
        token if any(a <= start and end <= b for a, b in spans) else -100
        for token, (start, end) in zip(ids, offsets, strict=True)
    ]
    trained_ends = sum(label == tokenizer.eos_token_id for label in labels)
    if trained_ends != len(spans):
        raise DataError(
            f"chat template: {trained_ends} of {len(spans)} assistant turns end with {tokenizer.eos_token!r} among the labels; "
            "a model trained so would not stop; take a template that ends each assistant turn with the tokenizer's eos token"
        )
    return {"input_ids": ids, "labels": labels}


def prompt_text(messages: Sequence[Message], tokenizer: Any) -> str:
    """The text after which the assistant's next message is generated."""
    return _render(messages, tokenizer, add_generation_prompt=True)


def _assistant_span(messages: Sequence[Message], index: int, text: str, tokenizer: Any) -> tuple[int, int]:
    before = _render(messages[:index], tokenizer, add_generation_prompt=True)
    through = _render(messages[: index + 1], tokenizer)
    if not (text.startswith(through) and through.startswith(before)):
        raise DataError(
            "chat template: adding a message changes the text before it, so that assistant tokens cannot be told apart"
        )
    end = through.rfind(tokenizer.eos_token, len(before))
    return len(before), end + len(tokenizer.eos_token) if end >= 0 else len(through)


def _render(messages: Sequence[Message], tokenizer: Any, add_generation_prompt: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
    return text
