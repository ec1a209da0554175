from __future__ import annotations

import socket
from random import Random

import pytest

from services.supervisor.errors import AddressTaken, SupervisorError
from services.supervisor.ports import Address, check_free, free_ports, refusal


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:-1", "host:65536", "host:http", "host:٣"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)


def test_a_client_reaches_a_wildcard_by_loopback() -> None:
    assert Address("0.0.0.0", 1).reachable == Address("127.0.0.1", 1)
    assert Address("::", 1).reachable == Address("::1", 1)
    assert Address("10.1.2.3", 1).reachable == Address("10.1.2.3", 1)


def test_a_taken_address_is_refused_with_the_option_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(AddressTaken, match=rf"--http 127\.0\.0\.1:{taken.port}.*already in use.*--http HOST:PORT"):
            check_free("--http", taken)
    assert refusal(taken) is None


def test_an_address_that_is_not_ours_is_refused() -> None:
    assert refusal(Address("192.0.2.1", 0)) is not None


def test_free_ports_are_different_and_in_range() -> None:
    ports = free_ports("127.0.0.1", 20, 20_000, 32_000, Random(7))
    assert len(set(ports)) == 20
    assert all(20_000 <= port <= 32_000 for port in ports)


def test_a_range_that_is_too_small_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SupervisorError, match="only 0 of 1 ports"):
            free_ports("127.0.0.1", 1, port, port, Random(7))
