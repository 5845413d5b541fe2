"""The `online-trl` command, a module for each noun."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..config import ConfigError
from ..dataset_import import DatasetFormatError
from ..loop import StepFailedError
from ..registry import RegistryError
from ..store import StoreError
from ..types import InvalidRecordError
from .datasets import add_export, add_import
from .demo import add_demo
from .evaluate import add_evaluate
from .lineage import add_lineage
from .log import add_database, add_erase, add_keys, add_quarantine
from .run import add_run
from .serve import add_serve
from .status import add_status
from .versions import add_canary, add_promote, add_registry_commands, add_rollback


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`Sequence[str]`, *optional*):
            The command line. Defaults to that of the process.

    Returns:
        `int`: Exit status: 0 when it did what was asked, 2 when something in the request was wrong, 130 after Ctrl-C.
    """
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (ConfigError, DatasetFormatError, StoreError, RegistryError, InvalidRecordError, StepFailedError) as error:
        print(f"online-trl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("online-trl: stopped", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    root = argparse.ArgumentParser(
        prog="online-trl", description="Train a deployed language model on what its users say about it."
    )
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_demo(commands.add_parser("demo", help="the whole loop on this machine, with simulated users"))
    add_run(commands.add_parser("run", help="serve a policy, train it on what users say, promote it, and again"))
    add_serve(commands.add_parser("serve", help="serve a policy and collect feedback"))
    add_import(commands.add_parser("import", help="put a preference dataset into the log"))
    add_export(commands.add_parser("export", help="write the log as a dataset for any TRL trainer"))
    add_status(commands.add_parser("status", help="what is in the log, which versions exist, which are live"))
    add_keys(commands.add_parser("keys", help="who may ask the servers on a log"))
    add_quarantine(commands.add_parser("quarantine", help="feedback that waits for somebody to look at it"))
    add_erase(commands.add_parser("erase", help="erase a user or an answer from the log"))
    add_evaluate(commands.add_parser("evaluate", help="measure a policy version, and record the result"))
    add_promote(commands.add_parser("promote", help="put a version into service"))
    add_rollback(commands.add_parser("rollback", help="take a version back out of service"))
    add_canary(commands.add_parser("canary", help="a candidate before a share of the users"))
    add_registry_commands(commands.add_parser("registry", help="look after the registry's files"))
    add_lineage(commands.add_parser("lineage", help="which versions consumed what, and what made a version"))
    add_database(commands.add_parser("db", help="bring the log's schema up to date"))
    return root
