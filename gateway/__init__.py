"""The one door: a gRPC edge and an OpenAI-shaped HTTP edge over one turn driver. It holds nothing that must last."""
