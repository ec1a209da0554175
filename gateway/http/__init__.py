"""The HTTP edge: OpenAI's API over the mesh, so that its SDKs work by their base URL alone."""
