"""Endpoints that are told of the ends of turns in the background: who they are, and their secrets."""
