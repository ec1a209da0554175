"""Turns that are to be audited, and what the critic has found of them."""
