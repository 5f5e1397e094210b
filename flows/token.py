"""The token of the Hugging Face Hub: from the environment, or else from a Secret block of the Prefect server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.blocks.system import Secret

BLOCK = "refit-hf-token"
_NAME = "HF_TOKEN"


@contextmanager
def hub_token(needed: bool) -> Iterator[None]:
    """Have HF_TOKEN in the environment, also of child processes, while the Hub is asked, and not while it is not `needed`."""
    given = os.environ.pop(_NAME, None)
    if needed and (token := given or _from_block()):
        os.environ[_NAME] = token
    try:
        yield
    finally:
        os.environ.pop(_NAME, None)
        if given is not None:
            os.environ[_NAME] = given


def _from_block() -> str | None:
    try:
        return str(Secret.load(BLOCK, _sync=True).get()).strip()  # type: ignore[call-arg,union-attr]
    except ValueError:  # there is no such block
        return None
