"""The turn protocol under a seeded scheduler: the real shard and its real scripts, with faults, in one process."""
