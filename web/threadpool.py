"""Work that would hold the hub for more than some milliseconds: in pieces with `breathe` between
them, or in a thread while the calling greenlet waits. Threads are for rare things only: each such
call delays every stream by about 5 ms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import gevent
from gevent.threadpool import ThreadPool

T = TypeVar("T")

_DISK_THREADS = 8
_disks: ThreadPool | None = None  # made by the first who wants it, after the fork

_MOMENT = 1e-6  # seconds; any that is no zero makes it a timer


def breathe() -> None:
    """Lets everybody else run, sockets and timers included, before the calling greenlet goes on.

    A sleep of 0 does not: gevent's loop looks for input only after 50 callbacks, so that a greenlet
    which works in slices of 10 ms keeps every socket waiting for half a second. A timer is due in
    the loop's next turn, which begins with a look at the sockets. It costs 10 us.
    """
    gevent.sleep(_MOMENT)


def in_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """`function(*arguments, **options)`, run by a thread of gevent's pool."""
    return _apply(gevent.get_hub().threadpool, function, arguments, options)


def in_thread_if(large: bool, function: Callable[..., T], *arguments: Any) -> T:
    """The same for what is large only."""
    return in_thread(function, *arguments) if large else function(*arguments)


def at_disk(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """In a thread for what opens files of the workspace or of models, in threads of their own: a
    network's disk that hangs takes all that ask for it, and nobody else."""
    global _disks
    if _disks is None:
        _disks = ThreadPool(_DISK_THREADS)
    return _apply(_disks, function, arguments, options)


@contextlib.contextmanager
def held_at_disk(manager: AbstractContextManager[T]) -> Iterator[T]:
    """The same for a context manager: it is entered and left in these threads."""
    value = at_disk(manager.__enter__)
    try:
        yield value
    except BaseException as problem:
        if not at_disk(manager.__exit__, type(problem), problem, problem.__traceback__):
            raise
    else:
        at_disk(manager.__exit__, None, None, None)


def _apply(
    pool: ThreadPool, function: Callable[..., T], arguments: Sequence[Any], options: dict[str, Any]
) -> T:
    def run() -> tuple[T | None, Exception | None]:
        # An exception that leaves the thread is printed there before it is raised here.
        try:
            return function(*arguments, **options), None
        except Exception as problem:
            return None, problem

    value, problem = pool.apply(run)
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]
