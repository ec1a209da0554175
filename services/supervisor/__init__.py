"""The local supervisor: Valkey and the rooms as processes on one machine, kept alive and stopped in order."""
