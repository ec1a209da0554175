"""`isthmus chaos`: a mesh of its own under load, its processes killed, its logs held against what clients were told."""

import os

# Servers that go away in the middle of a call are no news here, and gRPC tells each of them on stderr.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
