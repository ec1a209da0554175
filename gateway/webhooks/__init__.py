"""Events of the ends of turns in the background, signed and delivered to the tenants' endpoints."""
