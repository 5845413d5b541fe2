"""The whole loop on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import check_choice


def add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trainer", default="grpo", help="grpo (default) or ppo")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)")
    parser.add_argument("--rounds", type=int, default=3, help="how often the loop goes round (default: 3)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"), help="default: outputs/demo")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output directory")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    check_choice("trainer", args.trainer, ("grpo", "ppo"))
    from ..demo import run_demo

    run_demo(trainer=args.trainer, seed=args.seed, rounds=args.rounds, output_dir=args.output_dir, resume=args.resume)
