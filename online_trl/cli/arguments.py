"""What several commands take."""

from __future__ import annotations

import argparse


def add_store(parser: argparse.ArgumentParser, *, also_remote: bool = False) -> None:
    remote = ", or https://chat.example.org for that of a server" if also_remote else ""
    parser.add_argument(
        "--store", required=True, metavar="URL", help=f"the feedback log: sqlite:///feedback.db{remote}"
    )
