"""The memory: sessions as logs in Valkey, their turns, and the windows that a model sees of them."""
