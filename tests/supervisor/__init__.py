"""The supervisor, on real processes."""
