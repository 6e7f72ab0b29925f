"""Who may come in, by requests and by bytes."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from web.admission import Admission, Turns
from web.errors import Kind, Refusal


def test_requests_are_counted_and_not_their_texts() -> None:
    admission = Admission(2, 1 << 20)
    first, second = admission.enter(10), admission.enter(10)
    first.hold(5000)
    second.hold(3)
    assert admission.pending == 5003
    with pytest.raises(Refusal, match="queue is full") as caught:
        admission.enter(1)
    assert caught.value.kind is Kind.BUSY and caught.value.code == "queue_full"
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


def test_turns_come_in_order_and_few_wait() -> None:
    turns = Turns(2, 3, 100)
    begun: list[int] = []
    go_on = Event()

    def work(number: int) -> None:
        with turns.take(40):
            begun.append(number)
            go_on.wait()

    everybody = [gevent.spawn(work, number) for number in range(4)]
    gevent.sleep(0.01)
    assert begun == [0, 1]  # those at work hold nothing of the queue: two wait, with 80 bytes
    with pytest.raises(Refusal, match="queue is full"), turns.take(40):
        pass
    everybody[2].kill()  # its client has gone, and its place is free
    everybody.append(gevent.spawn(work, 4))
    gevent.sleep(0.01)
    with pytest.raises(Refusal), turns.take(40):
        pass
    gevent.sleep(0.01)
    go_on.set()
    gevent.joinall(everybody, timeout=5, raise_error=True)
    assert begun == [0, 1, 3, 4]
    with turns.take(1000):  # alone it is not too large
        pass
