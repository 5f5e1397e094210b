"""From messages to tokens, with the assistant's tokens marked, for any chat template that only ever appends."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

from tasks.errors import BaseModelError, ChatTemplateError, StageInputError, one_line
from tasks.template_analysis import prints_verbatim

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Message(TypedDict):
    """One message of a conversation, as in TRL's conversational format; with calls of tools as in `tasks.tool_calls`."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


Tools = Sequence[dict[str, Any]]
"""The tools that a conversation offers, as JSON schemas; mostly none."""


def said(message: Message) -> str:
    """All that a message says: its text, then its calls of tools as JSON."""
    if calls := message.get("tool_calls"):
        return f"{message['content']}\n{json.dumps(calls, ensure_ascii=False, sort_keys=True)}"
    return message["content"]


class Tokens(TypedDict):
    """`input_ids` of a whole conversation, int32 (tokens,), and `labels`: the same where the loss counts, -100 elsewhere."""

    input_ids: "NDArray[Any]"
    labels: "NDArray[Any]"


Span = tuple[int, int]
LabelAll = Callable[[Sequence[str], Sequence[Sequence[Span]]], list[Tokens | None]]
"""Tokens of each text, given which of its characters the loss counts on; None where that is left to the tokenizer."""


def conversation(row: Mapping[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    """Messages and tools of a stored row as they were."""
    messages: list[Any] = [{key: value for key, value in message.items() if value is not None} for message in row["messages"]]
    for message in messages:
        if "tool_calls" in message:
            message["tool_calls"] = json.loads(message["tool_calls"])
    return messages, json.loads(row["tools"] or "[]")


def load_tokenizer(base: Path) -> Any:
    """The tokenizer of the model in `base`, which has a chat template; its tokenizer.json as it stands.

    AutoTokenizer would import torch with it, which takes most of the time of a stage that needs none; that it reads the same is
    for `training_checks.check_tokenizer` to say, where torch is there anyway.

    Raises:
        StageInputError: there is none.
        BaseModelError: it cannot be loaded, or has no chat template.
    """
    if not (base / "tokenizer.json").is_file():
        raise StageInputError(
            f"{base / 'tokenizer.json'}: missing: the stage base has not finished; run `dvc repro` or `refit run`"
        )
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(base), local_files_only=True)
    except Exception as error:
        raise BaseModelError(f"{base}: its tokenizer cannot be loaded ({one_line(error)}); run the stage base") from error
    if not tokenizer.chat_template:
        raise BaseModelError(f"{base}: the tokenizer has no chat template; take a base model that has one (an instruct model)")
    return tokenizer


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens as text: none of them may come from a message."""
    return tuple(sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special))


class _Text(NamedTuple):
    """A conversation as the template shows it, and which of its characters are supervised."""

    text: str
    spans: list[Span]


class Encoder:
    """Tokenises conversations and labels every assistant message up to and including its end-of-turn token.

    Works with any chat template that only ever appends; no `{% generation %}` marks are needed. What stands around the contents
    is found once for each order of roles, on a conversation of short marks. With a template that prints contents as they are,
    that tells the text of each conversation. With any other each is rendered and compared with what it would be so; one that
    differs, as where a template trims or rewrites, is rendered again up to each of its replies.
    """

    def __init__(self, tokenizer: Any, fast: LabelAll | None = None) -> None:
        """`fast`: a quicker way to the same tokens, for many conversations."""
        self._tokenizer = tokenizer
        self._fast = fast
        self._encode = tokenizer.backend_tokenizer  # itself: the wrapper takes longer to copy its result than it to tokenise
        self._encode.no_truncation()
        self._encode.no_padding()
        self._end = tokenizer.eos_token_id
        self._verbatim = prints_verbatim(tokenizer.get_chat_template())
        self._layouts: dict[tuple[str, ...], _Layout | None] = {}

    def __call__(self, conversations: Sequence[Sequence[Message]], tools: Sequence[Tools] = ()) -> list[Tokens]:
        """Tokens of each conversation, with the tools that it offers (default: none offers any).

        Raises:
            ChatTemplateError: the template refuses a conversation, or changes earlier text when a message is added, or an
                end-of-turn token is not among the labels.
        """
        if not conversations:
            return []
        texts, spans = zip(*self._texts(conversations, tools or [()] * len(conversations)), strict=True)
        known = self._fast(texts, spans) if self._fast else [None] * len(texts)
        rest = [text for text, tokens in zip(texts, known, strict=True) if tokens is None]
        encodings = iter(self._encode.encode_batch(rest, add_special_tokens=False))
        return [
            self._checked(len(inside), tokens or labelled(inside, next(encodings)))
            for inside, tokens in zip(spans, known, strict=True)
        ]

    def _checked(self, n_replies: int, tokens: Tokens) -> Tokens:
        import numpy as np

        if (trained_ends := np.count_nonzero(tokens["labels"] == self._end)) != n_replies:
            raise ChatTemplateError(
                f"chat template: {trained_ends} of {n_replies} assistant turns end with {self._tokenizer.eos_token!r} among the "
                "labels; a model trained so would not stop; take a template that ends each assistant turn with the tokenizer's "
                "eos token"
            )
        return tokens

    def _texts(self, conversations: Sequence[Sequence[Message]], tools: Sequence[Tools]) -> list[_Text]:
        laid_out = list(map(self._laid_out, conversations, tools))
        unsure = [at for at, laid in enumerate(laid_out) if laid is None or not self._verbatim]
        texts = _render_all([conversations[at] for at in unsure], [tools[at] for at in unsure], self._tokenizer)
        rendered = dict(zip(unsure, texts, strict=True))

        def certain(at: int, laid: _Text | None) -> _Text:
            if laid and (at not in rendered or rendered[at] == laid.text):
                return laid
            return _Text(rendered[at], _assistant_spans(conversations[at], tools[at], rendered[at], self._tokenizer))

        return [certain(at, laid) for at, laid in enumerate(laid_out)]

    def _laid_out(self, messages: Sequence[Message], tools: Tools) -> _Text | None:
        """What it is if the template prints the contents as they are; None where that is not to be told by roles."""
        if tools or any("tool_calls" in message or not message["content"] for message in messages):
            return None
        roles = tuple([message["role"] for message in messages])
        if roles not in self._layouts:
            self._layouts[roles] = _layout(roles, self._tokenizer)
        layout = self._layouts[roles]
        return layout.fill(messages) if layout else None


def labelled(spans: Sequence[Span], encoding: Any) -> Tokens:
    """Those of an encoding of tokenizers: supervised is what lies wholly within one of the spans."""
    import numpy as np

    ids = np.array(encoding.ids, dtype=np.int32)
    starts, ends = zip(*encoding.offsets, strict=True) if len(ids) else ((), ())
    labels = np.full_like(ids, -100)
    for start, end in spans:
        inside = slice(bisect_left(starts, start), bisect_right(ends, end))
        labels[inside] = ids[inside]
    return {"input_ids": ids, "labels": labels}


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a template puts around the contents of one order of roles: the literals before, between and after them.

    `margins` has for each reply its index and how many characters before and after its content are supervised too.
    """

    literals: tuple[str, ...]
    margins: tuple[tuple[int, int, int], ...]

    def fill(self, messages: Sequence[Message]) -> _Text:
        """The text with these contents between the literals."""
        places: list[Span] = []
        pieces: list[str] = []
        position = 0
        for literal, message in zip(self.literals, messages, strict=False):
            content = message["content"]
            start = position + len(literal)
            position = start + len(content)
            places.append((start, position))
            pieces += (literal, content)
        spans = [(places[index][0] - before, places[index][1] + after) for index, before, after in self.margins]
        return _Text("".join((*pieces, self.literals[-1])), spans)


def _layout(roles: tuple[str, ...], tokenizer: Any) -> _Layout | None:
    """Found on a conversation whose contents are marks; None if the template does not show each of them once, in order."""
    messages: list[Message] = [{"role": role, "content": f"mark{number:04}"} for number, role in enumerate(roles)]
    (text,) = _render_all([messages], [()], tokenizer)
    literals, rest, position = [], text, 0
    places = []
    for message in messages:
        literal, found, rest = rest.partition(message["content"])
        if not found:
            return None
        literals.append(literal)
        places.append((position + len(literal), position + len(literal) + len(found)))
        position = places[-1][1]
    if any(message["content"] in literal for message in messages for literal in (*literals, rest)):
        return None
    spans = _assistant_spans(messages, (), text, tokenizer)
    replies = [index for index, role in enumerate(roles) if role == "assistant"]
    margins = [(index, places[index][0] - a, b - places[index][1]) for index, (a, b) in zip(replies, spans, strict=True)]
    return _Layout((*literals, rest), tuple(margins))


def shows_tools(tokenizer: Any) -> bool:
    """Whether the chat template shows the tools that are offered, a call of one, and its result."""
    function = {"name": "probe_name", "description": "probe_description", "parameters": {"type": "object", "properties": {}}}
    call = {"type": "function", "id": "probe0000", "function": {"name": "probe_name", "arguments": {"probe": "probe_value"}}}
    messages: list[Message] = [
        {"role": "user", "content": "probe"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "probe_result", "name": "probe_name", "tool_call_id": "probe0000"},
        {"role": "assistant", "content": "probe"},
    ]
    tools = [{"type": "function", "function": function}]
    try:
        text = _render(messages, tokenizer, tools)
        spans = _assistant_spans(messages, tools, text, tokenizer)
    except Exception:  # a template that does not know of tools may raise anything
        return False
    called = text[slice(*spans[0])]
    return all(("probe_description" in text, "probe_result" in text, "probe_name" in called, "probe_value" in called))


def _assistant_spans(messages: Sequence[Message], tools: Tools, text: str, tokenizer: Any) -> list[Span]:
    return [
        _assistant_span(messages, tools, index, text, tokenizer)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def prompt_and_reply(messages: Sequence[Message], tools: Tools, tokenizer: Any) -> tuple[str, str]:
    """The text after which the last message is generated, and what is to be generated: its text, or the calls as the template
    has them, without the end-of-turn token.
    """
    prompt = _render(messages[:-1], tokenizer, tools, add_generation_prompt=True)
    if "tool_calls" not in messages[-1]:
        return prompt, messages[-1]["content"]
    text = _render(messages, tokenizer, tools)
    start, end = _assistant_span(messages, tools, len(messages) - 1, text, tokenizer)
    return prompt, text[start:end].removesuffix(tokenizer.eos_token)


def _assistant_span(messages: Sequence[Message], tools: Tools, index: int, text: str, tokenizer: Any) -> Span:
    before = _render(messages[:index], tokenizer, tools, add_generation_prompt=True)
    through = _render(messages[: index + 1], tokenizer, tools)
    if not (text.startswith(through) and through.startswith(before)):
        raise ChatTemplateError(
            "chat template: adding a message changes the text before it, so that assistant tokens cannot be told apart"
        )
    end = through.rfind(tokenizer.eos_token, len(before))
    return len(before), end + len(tokenizer.eos_token) if end >= 0 else len(through)


def _render(messages: Sequence[Message], tokenizer: Any, tools: Tools, add_generation_prompt: bool = False) -> str:
    offered = {"tools": list(tools)} if tools else {}
    text: str = _apply(tokenizer, list(messages), add_generation_prompt=add_generation_prompt, **offered)
    return text


def _render_all(conversations: Sequence[Sequence[Message]], tools: Sequence[Tools], tokenizer: Any) -> list[str]:
    """All at once where no tools are offered, since a call of the template has one list of them."""
    if not conversations:
        return []
    if any(tools):
        return [_render(messages, tokenizer, offered) for messages, offered in zip(conversations, tools, strict=True)]
    texts: list[str] = _apply(tokenizer, list(conversations))
    return texts


def _apply(tokenizer: Any, conversations: list[Any], **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, **options)
    except TemplateError as error:
        raise ChatTemplateError(
            f"chat template: it refuses the conversation: {one_line(error)}; change the row, or take another template "
            "(base.chat_template) or base model"
        ) from error
