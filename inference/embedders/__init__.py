"""The embedders: one module a variant, imported when the settings ask for it."""
