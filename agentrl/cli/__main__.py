"""`python -m agentrl.cli`: the command line without the installed script."""

from agentrl.cli import main

main()
