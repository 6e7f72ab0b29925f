"""Who asks: the number by which clients take turns."""

from __future__ import annotations

from itertools import combinations

from web.transport.caller import Caller, address


def test_requests_of_one_client_have_one_number() -> None:
    same = [
        [{"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "7"}],
        [{"REMOTE_ADDR": "192.0.2.2"}],
        [{"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "192.0.2.7, 192.0.2.3"}],
        # One network of IPv6 is one client.
        [{"REMOTE_ADDR": "2001:db8::1"}, {"REMOTE_ADDR": "2001:db8:0:0:1:2:3:4"}],
        [{"REMOTE_ADDR": "2001:db8:0:1::1"}],
        [{"REMOTE_ADDR": "fe80::1%eth0"}, {"REMOTE_ADDR": "fe80::2"}],
        [{"REMOTE_ADDR": "::ffff:192.0.2.8"}],
        [{"REMOTE_ADDR": "::ffff:192.0.2.9"}],
        [{}, {"REMOTE_ADDR": ""}],
    ]
    callers = [[Caller(address(environ)) for environ in environs] for environs in same]
    callers += [
        # A key is the same client from everywhere, and is told apart from an address.
        [Caller("192.0.2.1", b"k"), Caller("192.0.2.2", b"k")],
        [Caller("192.0.2.1", b"l")],
        [Caller("", b"192.0.2.1")],
    ]
    numbers = [{caller.number for caller in one} for one in callers]
    assert all(len(one) == 1 for one in numbers)
    assert all(a.isdisjoint(b) for a, b in combinations(numbers, 2))
    assert all(0 <= number < 2**64 for one in numbers for number in one)


def test_who_comes_over_tcp_cannot_choose_an_address() -> None:
    assert address({"REMOTE_ADDR": "192.0.2.1", "HTTP_X_FORWARDED_FOR": "x"}) == "192.0.2.1"
