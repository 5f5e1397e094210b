"""The token of the Hugging Face Hub: from the environment, or else from a Secret block of the Prefect server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.blocks.system import Secret

BLOCK = "refit-hf-token"
_NAME = "HF_TOKEN"


@contextmanager
def hub_token(needed: bool) -> Iterator[None]:
    """Have HF_TOKEN in the environment, also of child processes, for as long as the Hub is asked, and no longer."""
    if not needed or os.environ.get(_NAME) or (token := _from_block()) is None:
        yield
        return
    os.environ[_NAME] = token
    try:
        yield
    finally:
        del os.environ[_NAME]


def _from_block() -> str | None:
    try:
        return str(Secret.load(BLOCK, _sync=True).get()).strip()  # type: ignore[call-arg,union-attr]
    except ValueError:  # there is no such block
        return None
