"""Copies of sessions in memory: what is planned on, and which shard has them."""
