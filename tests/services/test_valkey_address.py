"""What a Valkey URL says, and that its password is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import ConfigError, load_settings
from services.valkey import connect, redacted
from services.valkey.address import parse

HOST = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True) | st.just("10.0.0.1") | st.just("[fd00::1]")
SCHEMES = ["redis", "rediss", "redis+cluster", "rediss+cluster"]
PLACES = st.lists(st.tuples(HOST, st.integers(1, 65_535)), min_size=1, max_size=4)


@given(PLACES, st.booleans())
def test_a_cluster_has_as_many_seeds_as_its_url_names(places: list[tuple[str, int]], tls: bool) -> None:
    scheme = "rediss" if tls else "redis"
    hosts = ",".join(f"{host}:{port}" for host, port in places)
    address = parse(f"{scheme}+cluster://user:pw@{hosts}")
    assert address.cluster
    assert address.tls is tls
    assert address.hosts == tuple((host.strip("[]"), port) for host, port in places)
    for (name, port), host in zip(address.hosts, places, strict=True):
        assert address.node_url(name, port) == f"{scheme}://user:pw@{host[0]}:{port}"
        assert parse(address.seed_url(name, port)).hosts == ((name, port),)


def test_one_node_keeps_its_database_and_its_options() -> None:
    address = parse("rediss://h/3?ssl_ca_certs=/ca.pem")
    assert not address.cluster
    assert address.node_url("h", 6379) == "rediss://h:6379/3?ssl_ca_certs=/ca.pem"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h:1", "scheme 'http'"),
        ("h:6379", "scheme 'h'"),
        ("", "scheme ''"),
        ("redis://", "names no host"),
        ("redis://h:0", "port is 0"),
        ("redis://h:99999", "no host with a port up to 65535"),
        ("redis://[::1:6379", "an IPv6 address stands in [ and ]"),
        ("redis+cluster://[::1]:1,[::2:3", "no host with a port"),
        ("redis://h:1,i:2", "several hosts"),
        ("redis+cluster://h:1,:2", "names no host"),
        ("redis+cluster://h:1/2", "a cluster has only 0"),
        ("redis://h/x", "not a number"),
        ("rediss://h?protocol=2", "option 'protocol'"),
        ("rediss://u:a/b@h", "an @ behind the hosts"),
        ("rediss://u:a?b@h", "an @ behind the hosts"),
        ("rediss://u:a#b@h", "an @ behind the hosts"),
        ("redis://h?ssl_ca_certs=/ca.pem", "options of TLS without TLS"),
    ],
)
def test_a_wrong_url_is_refused_with_what_was_expected(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=r"valkey\.url") as refused:
        connect(load_settings(valkey={"url": url}).valkey)
    assert problem in str(refused.value)


@given(st.text(min_size=4).filter(lambda text: text not in "redis+cluster://user:***@host:6379 "))
def test_a_password_is_never_shown(password: str) -> None:
    shown = redacted(f"redis+cluster://user:{password}@host:6379")
    assert shown == "redis+cluster://user:***@host:6379"


def said_of(url: str) -> str:
    """Why the URL is refused, if it is."""
    try:
        parse(url)
    except ConfigError as refused:
        return str(refused)
    return ""


@given(st.lists(st.sampled_from(["/", "?", "#", "@", ":", "%", "[", "]", "&", "=", "hush"])), st.sampled_from(SCHEMES))
def test_a_password_that_is_not_escaped_is_not_shown_by_its_refusal(signs: list[str], scheme: str) -> None:
    assert "hush" not in said_of(f"{scheme}://user:{''.join(signs)}hush@host:6379/0")
    assert "user:***@" in said_of(f"http://user:{''.join(signs)}hush@host:6379/0")


def test_what_holds_no_password_is_shown_as_it_is() -> None:
    assert redacted("redis://host:6379/0") == "redis://host:6379/0"
    assert redacted("rediss://user@host?ssl_ca_certs=/ca.pem") == "rediss://user@host?ssl_ca_certs=/ca.pem"
    assert redacted("secret") == "***"
