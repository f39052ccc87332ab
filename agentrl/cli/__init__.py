"""The command line: `agentrl train | eval | compare | view | probe | ...`.

One file a command group. Invariants: a user's mistake is one line on stderr and exit code 2; with `--json` stdout holds
JSON and nothing else; commands that only list or explain load no model library.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape

from agentrl.errors import AgentRLError, ConfigError

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


def main() -> None:
    """Entry point of the `agentrl` command."""
    try:
        from agentrl.cli.app import app

        app()
    except AgentRLError as error:
        line = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(line)}", highlight=False)
        sys.exit(EXIT_USER_ERROR if isinstance(error, ConfigError) else EXIT_FAILURE)


__all__ = ["main"]
