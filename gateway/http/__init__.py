"""The HTTP edge: OpenAI's Responses and Conversations over the mesh, so that its SDKs work by their base URL alone."""
