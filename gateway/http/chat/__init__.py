"""`/v1/chat/completions`: histories that clients resend, recognised and cut down to what is new."""
