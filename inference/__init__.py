"""The room of the models: turns a window's manifest into tokens, tokens into text, and texts into vectors."""
