"""
The deployed policy: an OpenAI-compatible server that records every answer and takes feedback on it.

Only the engine that generates in this process needs torch, and it is imported when the server starts it.
"""
