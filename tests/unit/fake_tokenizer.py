"""A tokenizer and chat templates that cost nothing, for tests of what is done with tokens."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from tasks.chat import Message, Tools

EOS = "<eos>"
Template = Callable[..., str]


def with_tools(messages: Sequence[Message], generate: bool, tools: Tools = ()) -> str:
    """As Qwen's template does: tools first, a call as JSON in the assistant's turn, results in a turn of the user."""
    shown: list[Message] = [{"role": "tools", "content": json.dumps(tools)}] if tools else []
    for message in messages:
        calls = "".join(f"<call>{json.dumps(call['function'])}</call>" for call in message.get("tool_calls", ()))
        role = "user" if message["role"] == "tool" else message["role"]
        shown.append({"role": role, "content": message["content"] + calls})
    return chatml(shown, generate)


def chatml(messages: Sequence[Message], generate: bool) -> str:
    """Each message as `<role>\\ncontent<eos>\\n`, as in ChatML."""
    return "".join(f"<{m['role']}>\n{m['content']}{EOS}\n" for m in messages) + "<assistant>\n" * generate


class FakeTokenizer:
    """One token a character (its code point), and one (0) for the end-of-turn mark wherever it stands."""

    eos_token = EOS
    eos_token_id = 0

    def __init__(self, template: Template = chatml, pieces: str = rf"{EOS}|.") -> None:
        self.template = template
        self.pieces = re.compile(pieces, re.DOTALL)

    def get_chat_template(self) -> str:
        return "{{ messages }}"

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool = False, **offered: Any) -> Any:
        assert not tokenize
        if messages and isinstance(messages[0], list):
            return [self.template(conversation, add_generation_prompt) for conversation in messages]
        return self.template(messages, add_generation_prompt, **(offered if self.template is with_tools else {}))

    @property
    def backend_tokenizer(self) -> "FakeTokenizer":
        return self

    def no_truncation(self) -> None: ...

    def no_padding(self) -> None: ...

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[SimpleNamespace]:
        assert not add_special_tokens, "the template has them all"
        found = []
        for text in texts:
            offsets = [piece.span() for piece in self.pieces.finditer(text)]
            ids = [0 if text[start:end] == EOS else ord(text[end - 1]) for start, end in offsets]
            found.append(SimpleNamespace(ids=ids, offsets=offsets))
        return found

    def __call__(self, texts: list[str], add_special_tokens: bool, return_attention_mask: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [encoding.ids for encoding in self.encode_batch(texts, add_special_tokens)]}


def decode(tokens: Iterable[int]) -> str:
    """The text of tokens; those under a -100 are left out."""
    return "".join(EOS if token == 0 else chr(token) for token in tokens if token != -100)
