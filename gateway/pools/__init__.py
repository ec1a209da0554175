"""Pools of replicas: which takes a turn, how often a turn may be tried, and who hears no more for a while."""
