"""The command line, against a real mesh."""
