"""What a test of TLS and of an ACL needs: certificates as files, a user with the documented rights, URLs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis
import trustme

from tests.support.tls_proxy import TlsProxy

USER: Final = "mesh"
# Each sign of it that a URL gives a meaning.
PASSWORD: Final = "p@ss/w:rd?#%2F"
# What docs/operations.md says that a user needs.
_QUEUES: Final = ("isthmus", "isthmus-turns", "isthmus-webhooks", "isthmus-libraries")
RIGHTS: Final = " ".join(f"~{name}:* &{name}:* &{name}:cancel:*" for name in _QUEUES) + (
    " +@all -@admin -@dangerous +info"
)
RIGHTS_IN_A_CLUSTER: Final = " ".join(f"~{{{name}}}:* &{{{name}}}:* &{{{name}}}:cancel:*" for name in _QUEUES) + (
    " +cluster|slots +cluster|shards"
)
HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Paths:
    """PEM files: the authority of the nodes, a stranger's, a client's certificate with its key, and both apart."""

    authority: Path
    stranger: Path
    client: Path
    certificate: Path
    key: Path


def written(authority: trustme.CA, folder: Path) -> Paths:
    """The files, in a folder."""
    found = Paths(*(folder / f"{name}.pem" for name in Paths.__dataclass_fields__))
    authority.cert_pem.write_to_path(found.authority)
    trustme.CA().cert_pem.write_to_path(found.stranger)
    mine = authority.issue_cert("mesh.example")
    mine.private_key_and_cert_chain_pem.write_to_path(found.client)
    mine.cert_chain_pems[0].write_to_path(found.certificate)
    mine.private_key_pem.write_to_path(found.key)
    return found


@contextmanager
def user(ports: Sequence[int]) -> Iterator[list[redis.Redis]]:
    """A user with the documented rights, and no other, on the nodes at these ports; clients of the nodes."""
    with ExitStack() as closing:
        nodes = [closing.enter_context(redis.Redis(port=port)) for port in ports]
        for node in nodes:
            node.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *RIGHTS.split())
            if len(ports) > 1:
                node.execute_command("ACL", "SETUSER", USER, *RIGHTS_IN_A_CLUSTER.split())
            closing.callback(node.execute_command, "ACL", "DELUSER", USER)
            node.acl_log_reset()
        yield nodes


def url_of(scheme: str, proxies: Sequence[TlsProxy], query: str, credentials: str = "") -> str:
    """A URL that names the proxies."""
    places = ",".join(f"{HOST}:{proxy.port}" for proxy in proxies)
    return f"{scheme}://{credentials}{places}?{query}"


def credentials(name: str = USER, password: str = PASSWORD) -> str:
    """What stands in front of the hosts."""
    return f"{name}:{quote(password, safe='')}@"
