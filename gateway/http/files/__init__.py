"""`/v1/files`: texts that are uploaded as streams and kept whole."""
