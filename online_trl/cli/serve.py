"""Serving a policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import check_config_file
from .arguments import add_registry, add_store


def add_serve(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    policy = parser.add_mutually_exclusive_group(required=True)
    policy.add_argument("--policy", metavar="PATH", help="a model: a folder, or a hub id")
    add_registry(policy, required=False, help="a registry, whose live policy is followed")
    policy.add_argument(
        "--upstream", metavar="URL", help="an OpenAI-compatible server that answers: http://127.0.0.1:8001/v1"
    )
    parser.add_argument("--upstream-model", metavar="NAME", help="its model (default: the first that it lists)")
    parser.add_argument(
        "--upstream-token-ids",
        action="store_true",
        help="ask it for token ids and log-probabilities (vLLM with `--logprobs-mode processed_logprobs`)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings of the server, see `ServerSettings`")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    from ..serving.server import serve
    from ..serving.settings import ServerSettings, read_settings

    settings = check_config_file(args.config, [ServerSettings]) if args.config is not None else {}
    serve(
        store_url=args.store,
        policy=args.policy,
        registry_root=args.registry,
        upstream=args.upstream,
        upstream_model=args.upstream_model,
        upstream_token_ids=args.upstream_token_ids,
        host=args.host,
        port=args.port,
        settings=read_settings(settings, where=str(args.config)),
    )
