"""Bundled tools, announced by entry points and imported when one is asked for by name."""
