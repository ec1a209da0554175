"""Answers that are there already: the same window again, or a question that asks the same as one before."""
