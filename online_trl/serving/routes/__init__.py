"""The HTTP routes, thin: what they do lives in functions that a test can call."""
