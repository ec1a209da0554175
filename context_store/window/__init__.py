"""Windows: planned, told as manifests, streamed, and the summaries that they hold."""
