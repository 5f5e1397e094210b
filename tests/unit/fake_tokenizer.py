"""A tokenizer and chat templates that cost nothing, for tests of what is done with tokens."""

import re
from collections.abc import Callable, Sequence

from tasks.chat import Message

EOS = "<eos>"
Template = Callable[[Sequence[Message], bool], str]


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

    def apply_chat_template(self, messages: list[Message], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        return self.template(messages, add_generation_prompt)

    def __call__(
        self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> dict[str, list[int] | list[tuple[int, int]]]:
        assert not add_special_tokens, "the template has them all"
        spans = [found.span() for found in self.pieces.finditer(text)]
        ids = [0 if text[a:b] == EOS else ord(text[b - 1]) for a, b in spans]
        return {"input_ids": ids, "offset_mapping": spans}


def decode(tokens: list[int]) -> str:
    """The text of tokens; those under a -100 are left out."""
    return "".join(EOS if token == 0 else chr(token) for token in tokens if token != -100)
