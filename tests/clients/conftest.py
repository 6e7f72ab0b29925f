"""The servers that unmodified clients talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The demo model with the default settings."""
    with serving(access_log=0) as one:
        yield one


@pytest.fixture(scope="session")
def tiny() -> Iterator[Server]:
    """One slot and a queue of one: soon full."""
    with serving(max_batch=1, max_queue=1, access_log=0) as one:
        yield one
