"""The context store: its pure core by property, its service over real gRPC on a real Valkey."""
