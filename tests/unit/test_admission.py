"""Who may come in, by requests and by bytes."""

from __future__ import annotations

import pytest

from web.engine.admission import Admission
from web.errors import Refusal


def test_requests_are_counted_and_not_their_texts() -> None:
    admission = Admission(2, 1 << 20)
    first, second = admission.enter(10), admission.enter(10)
    first.hold(5000)
    second.hold(3)
    assert admission.pending == 5003
    with pytest.raises(Refusal, match="queue is full") as caught:
        admission.enter(1)
    assert caught.value.status.startswith("429") and caught.value.error_code == "queue_full"
    first.hold(100)
    assert admission.pending == 103
    for _ in range(3):  # once is enough
        first.leave()
    first.hold(9)  # it has gone
    assert admission.pending == 3
    admission.enter(1)
    with pytest.raises(Refusal):
        admission.enter(1)


def test_bytes_are_counted() -> None:
    admission = Admission(100, 1000)
    alone = admission.enter(5000)  # larger than all the room there is: it would never fit
    with pytest.raises(Refusal):
        admission.enter(1)
    alone.leave()
    stays = [admission.enter(250) for _ in range(4)]
    with pytest.raises(Refusal):
        admission.enter(1)
    stays[0].leave()
    admission.enter(250)
