"""Valkey, one node or a cluster: the client, Lua scripts as callables, and writes that replicas have confirmed."""

from services.valkey.acknowledge import Ack, Acknowledger
from services.valkey.address import redacted
from services.valkey.client import Client, NodeMemory, command, connect, is_cluster, memory, primaries, scan_keys
from services.valkey.cluster import Argument
from services.valkey.script import Script

__all__ = [
    "Ack",
    "Acknowledger",
    "Argument",
    "Client",
    "NodeMemory",
    "Script",
    "command",
    "connect",
    "is_cluster",
    "memory",
    "primaries",
    "redacted",
    "scan_keys",
]
