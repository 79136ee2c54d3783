"""The HTTP door: OpenAI-shaped routes, task routes, metrics and the page."""
