"""Audits of replies: which turns are audited, and what is kept of them. Shared by those who ask, judge and tell."""
