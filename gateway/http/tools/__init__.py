"""OpenAI's functions and forms over the contract's: what clients send of them, and what they read."""
