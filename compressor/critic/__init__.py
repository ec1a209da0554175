"""The critic: replies judged in the background against what they were made from."""
