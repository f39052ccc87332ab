"""Tools: what the policy may call, and the one function that calls them.

A typed function with a docstring becomes a tool by `@tool`; a class when it has state (a session an episode). pydantic
builds the JSON schema from the type hints and validates the arguments.

Invariant: whatever goes wrong inside a call - unknown tool, bad JSON, wrong types, timeout, crash - is a `ToolResult`
that the policy reads, never an exception that ends the episode. Only cancellation passes through.
"""

from __future__ import annotations
