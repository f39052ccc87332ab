"""Runs in and out of a store as files: JSON lines (whole, and back again), Parquet, logs of Inspect AI.

`export_run` chooses the form by the target's name; `import_run` reads JSON lines.
"""

from agentrl.exchange.export import FORMS, export_run, form_of
from agentrl.exchange.jsonl import episode_line
from agentrl.exchange.read_jsonl import import_run

__all__ = ["FORMS", "episode_line", "export_run", "form_of", "import_run"]
