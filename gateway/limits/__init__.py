"""Limits at the gateway's edges, and the fair line before its turns."""
