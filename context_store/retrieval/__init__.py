"""Finding passages of documents: indexes in the shard's memory, built from the log and the stored vectors."""
