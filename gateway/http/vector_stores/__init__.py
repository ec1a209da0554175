"""`/v1/vector_stores`: libraries, their documents and their search in OpenAI's shapes."""
