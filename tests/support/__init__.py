"""What many tests need: real servers on free ports, and waiting for an event instead of sleeping."""
