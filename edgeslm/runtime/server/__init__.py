"""Models over HTTP: the API that OpenAI's clients speak, figures for Prometheus, a page to chat."""
