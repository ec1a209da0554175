"""Limits of callers: what they may use up, what they have used. Pure but for `keeper.py`, which has it in Valkey."""
