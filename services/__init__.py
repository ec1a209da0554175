"""The floor that all rooms stand on: config, lifecycle, gRPC, errors, telemetry, ring, jobs, CLI, supervisor."""
