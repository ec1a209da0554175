"""Isthmus beside the systems that have the client resend its history, on the same machine and texts."""
