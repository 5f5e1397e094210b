"""From messages to tokens, with the assistant's tokens marked, for any chat template that only ever appends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from tasks.errors import BaseModelError, DataError, StageInputError


class Message(TypedDict):
    """One message of a conversation, as in TRL's conversational format."""

    role: str
    content: str


class Tokens(TypedDict):
    """`input_ids` of a whole conversation, and `labels`: the same ids where the loss counts, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def load_tokenizer(base: Path) -> Any:
    """The tokenizer of the model in `base`, which has a chat template.

    Raises:
        StageInputError: there is none.
        BaseModelError: it cannot be loaded, or has no chat template.
    """
    if not (base / "tokenizer.json").is_file():
        raise StageInputError(
            f"{base / 'tokenizer.json'}: missing: the stage base has not finished; run `dvc repro` or `refit run`"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    except Exception as error:
        first = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        raise BaseModelError(f"{base}: its tokenizer cannot be loaded: {first}; run the stage base") from error
    if not tokenizer.chat_template:
        raise BaseModelError(f"{base}: the tokenizer has no chat template; take a base model that has one (an instruct model)")
    return tokenizer


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens as text: none of them may come from a message."""
    return tuple(sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special))


def count_tokens(conversations: Sequence[Sequence[Message]], tokenizer: Any) -> list[int]:
    """Tokens of each conversation in the chat template.

    Raises:
        BaseModelError: the template refuses a conversation.
    """
    from jinja2 import TemplateError

    try:
        texts = tokenizer.apply_chat_template(list(conversations), tokenize=False)
    except TemplateError as error:
        raise BaseModelError(
            f"{tokenizer.name_or_path}: its chat template refuses a conversation: {error}; take another base model"
        ) from error
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]]


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
