"""Who calls, and whether that is allowed: one gate for both edges."""
