"""A reward function that fails on one rank of two."""

import os


def reward(completions, **columns):
    if os.environ["RANK"] == "1":
        raise RuntimeError("not here")
    return [1.0] * len(completions)
