"""Work that would hold the hub for more than some milliseconds goes to a thread, and the calling
greenlet waits. For rare things only: each such call delays every stream by about 5 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent

T = TypeVar("T")


def in_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """`function(*arguments, **options)`, run by a thread of gevent's pool."""

    def run() -> tuple[T | None, Exception | None]:
        # An exception that leaves the thread is printed there before it is raised here.
        try:
            return function(*arguments, **options), None
        except Exception as problem:
            return None, problem

    value, problem = gevent.get_hub().threadpool.apply(run)
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]
