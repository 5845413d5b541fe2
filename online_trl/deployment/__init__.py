"""
The loop as a service: a server, a trainer and an evaluation under one supervisor.

The supervisor itself loads no model. What it does is on disk: it can be killed at any moment, and goes on when it is
started again.
"""

from .supervisor import Supervisor

__all__ = ["Supervisor"]
