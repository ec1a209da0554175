"""gRPC as every room speaks it: `GrpcServer` on one side, `Channels` on the other."""

from services.rpc.channels import Channels
from services.rpc.deadlines import without_deadline
from services.rpc.server import GrpcServer

__all__ = ["Channels", "GrpcServer", "without_deadline"]
