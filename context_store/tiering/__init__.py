"""Cold sessions as objects: frozen when idle, thawed by the next touch, and what keeps Valkey within its bound."""
