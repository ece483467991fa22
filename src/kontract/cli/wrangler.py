"""`kontract wrangler ...`: Cloudflare's wrangler with this environment's Node, for machines without Node.

Everything after the word goes to wrangler as it is: `kontract wrangler deploy --env production`,
`kontract wrangler secret put KONTRACT_SECRET`.
"""

from __future__ import annotations

import argparse
import subprocess

from kontract.cli.toolchain import node, setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.progress import warn

# No option of this command's own: `--env` and even `--help` are wrangler's.
PARSER = {"add_help": False, "prefix_chars": "\0"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments for wrangler")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    setup.prepare(checkout, warn, run=False)  # the upload must be complete; stdout belongs to wrangler
    node_bin = node.bin_folder()
    process = subprocess.run(
        [*node.wrangler_command(checkout, node_bin), *args.arguments],
        env={"WRANGLER_SEND_METRICS": "false", **node.environment(node_bin)},
        check=False,
    )
    return process.returncode
