"""The servers that unmodified clients talk to, and the environments that some of them live in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping

import pytest
from environments import ENVIRONMENTS
from serving import SOAK, Server, serving

_making: dict[str, subprocess.Popen[bytes]] = {}


def _needs_environments(item: pytest.Item) -> bool:
    return item.path.name == "test_in_environments.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs an environment comes last: downloads take their time beside the other tests."""
    items.sort(key=_needs_environments)


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = SOAK and any(map(_needs_environments, session.items))
    if session.config.option.collectonly or not wanted:
        return
    for name, environment in ENVIRONMENTS.items():
        _making[name] = environment.begin()


def pytest_unconfigure() -> None:
    for process in _making.values():
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def making() -> Mapping[str, subprocess.Popen[bytes]]:
    """What makes each environment; its end with 0 says that the environment is there."""
    return _making


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The demo model with the default settings, and with ids in /embeddings."""
    with serving(access_log=0, embed_token_ids=1) as one:
        yield one


@pytest.fixture(scope="session")
def tiny() -> Iterator[Server]:
    """One slot and a queue of one: soon full."""
    with serving(max_batch=1, max_queue=1, access_log=0) as one:
        yield one
