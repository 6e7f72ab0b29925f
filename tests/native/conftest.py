"""Compiles the native tests beside the others, which mostly wait, with the least claim on the
processor and one kind of build after the other; what is compiled is tested last."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from builds import Kind, build, reason_to_skip

_compiled: dict[str, Future[None]] = {}


def _kind(item: pytest.Item) -> Kind | None:
    """What test_native runs, if the item is that."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    kind = parameters.get("kind")
    return kind if isinstance(kind, Kind) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _kind(item) is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    kinds = [kind for item in session.items if (kind := _kind(item))]
    if session.config.option.collectonly or not kinds:
        return
    _compiled.update((kind.name, Future()) for kind in kinds)
    threading.Thread(target=_compile, args=(kinds,), daemon=True).start()


def _compile(kinds: list[Kind]) -> None:
    nice = shutil.which("nice")
    for kind in kinds:
        try:
            if reason_to_skip(kind) is None:
                build(kind, *((nice, "-n", "19") if nice else ()))
        except BaseException as problem:
            _compiled[kind.name].set_exception(problem)
        else:
            _compiled[kind.name].set_result(None)


@pytest.fixture
def compiled() -> Callable[[Kind], None]:
    """Waits until a kind has been compiled; raises what its compiler said."""
    return lambda kind: _compiled[kind.name].result()
