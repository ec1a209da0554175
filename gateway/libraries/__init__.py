"""Libraries and files: sessions without turns, whose documents are searched or copied."""
