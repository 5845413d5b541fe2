"""`online-trl run`: the loop as a service."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `online-trl run`."""
    parser.add_argument("--config", required=True, type=Path, metavar="YAML", help="see `DeploymentSettings`")
    parser.add_argument("--once", action="store_true", help="one round, now, and without a server: for cron")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from ..deployment import Supervisor
    from ..deployment.settings import read_deployment

    Supervisor(read_deployment(args.config)).run(once=args.once)
