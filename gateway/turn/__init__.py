"""A turn from its opening to its commit: opened, driven, streamed, told, or failed."""
