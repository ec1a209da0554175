"""Functions of the client's: how the model is told of them, and what of its text calls one."""
