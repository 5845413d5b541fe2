"""What several commands take."""

from __future__ import annotations

import argparse


def add_registry(
    parser: argparse._ActionsContainer, *, required: bool = True, help: str = "the model registry"
) -> None:
    """Adds `--registry`."""
    parser.add_argument("--registry", required=required, metavar="DIR", help=f"{help}: a folder, or hf://owner/name")


def add_store(parser: argparse.ArgumentParser, *, also_remote: bool = False) -> None:
    remote = ", or https://chat.example.org for that of a server" if also_remote else ""
    parser.add_argument(
        "--store", required=True, metavar="URL", help=f"the feedback log: sqlite:///feedback.db{remote}"
    )
