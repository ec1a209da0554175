"""The room of the background workers: makes texts shorter, and says which part of the source each sentence is."""
