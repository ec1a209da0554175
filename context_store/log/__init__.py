"""Sessions in Valkey: their keys, every read and write of them, and the texts."""
