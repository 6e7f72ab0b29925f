"""The C engine and its bell, for one thread at a time.

Owns the handle, the two eventfds that C rings, and the lock that all of an Engine's threads share.
Called by engine.py and inbox.py.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from .._ffi import check, ffi, lib
from ..errors import Stopped
from ..model import Model
from ..tokenizers import Tokenizer


class NativeEngine:
    """`with native as handle`: the C engine, while no other thread has it.

    The lock is re-entrant, because a signal handler or the garbage collector may come to cancel,
    close or iterate while this very thread is inside. Hence what close() finds in use is freed by
    the last to leave: the engine by the outermost `with`, the descriptors by who watches them.
    """

    __slots__ = ("bell", "changed", "closed", "handle", "leader", "pid", "users")

    def __init__(self, model: Model, tokenizer: Tokenizer, options: Any) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.pid = os.getpid()
        self.users = 0  # `with` blocks open now, all of the thread that has the lock
        self.leader: int | None = None  # the thread that watches the bell for all Generations
        self.closed = False
        self.bell = ffi.new("rn_bell *")
        self.bell.watcher = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.bell.iterators = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        options.ring = ffi.addressof(lib, "rn_ring")
        options.payload = self.bell
        out = ffi.new("rwkv_engine **")
        status = lib.rwkv_engine_new(out, model._handle, tokenizer._handle, options)
        self.handle = out[0] if status == 0 else None
        try:
            check(status)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Any:
        """The handle, valid until __exit__. Raises Stopped."""
        self.check_process()
        self.changed.acquire()
        self.users += 1
        try:
            self.check_open()
        except Stopped:
            self.__exit__()
            raise
        return self.handle

    def __exit__(self, *exc: object) -> None:
        self.users -= 1
        self.free()
        self.changed.release()

    def check_process(self) -> None:
        # Before the lock, which another thread may have held at the fork.
        if self.pid != os.getpid():
            raise Stopped("the engine was made before a fork; make one in this process")

    def check_open(self) -> None:
        if self.closed:
            raise Stopped("the engine has been closed")

    def pause(self) -> None:
        """Waits for a change. Not for ever: a signal handler may have made it just before."""
        self.changed.wait(1)

    def close(self, wait: bool = True) -> None:
        """wait: return when the descriptors are closed, too."""
        if self.pid != os.getpid():
            # Threads do not survive a fork: the engine can be neither used nor freed here. The
            # descriptors are copies.
            self.closed, self.handle, self.leader, self.users = True, None, None, 0
            self.free()
            return
        with self.changed:
            if not self.closed:
                self.closed = True
                os.eventfd_write(self.bell.iterators, 1)
            self.changed.notify_all()
            self.free()
            # Not from within this thread's own use of the engine, which ends only after this.
            while wait and not self.users and self.leader not in (None, threading.get_ident()):
                self.pause()

    def free(self) -> None:
        """Frees what is in use no more, once closed. Under the lock."""
        if not self.closed or self.users:
            return
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.rwkv_engine_free(handle)  # joins the thread: no ring after this
        if self.leader is None:
            bell, self.bell = self.bell, None
            if bell is not None:
                os.close(bell.watcher)
                os.close(bell.iterators)
