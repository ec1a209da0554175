"""The engines, each in a module of its own."""
