"""Turns: open, plan anew, renew, commit, close, wait."""
