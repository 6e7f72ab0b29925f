"""The servers that the contract tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The demo model with the default settings, and with ids in /embeddings."""
    with serving(access_log=0, embed_token_ids=1) as one:
        yield one


@pytest.fixture(scope="session")
def narrow() -> Iterator[Server]:
    """Two slots, a queue of four, small chunks: to be queued, to prefill for long, to be full."""
    with serving(
        max_batch=2, max_queue=4, prefill_chunk=16, max_body=4 << 20, max_prompt_tokens=4 << 20
    ) as one:
        yield one
