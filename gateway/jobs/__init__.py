"""Turns in the background: queued, run by any gateway, tried again, and kept as dead letters where nothing helped."""
