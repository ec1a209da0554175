"""The manual runs against a small mesh: two shards, a replica that makes its text up, one gateway."""

from tests.gateway.conftest import client, mesh, quick, slow, tokenizer_cache

__all__ = ["client", "mesh", "quick", "slow", "tokenizer_cache"]
