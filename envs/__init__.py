"""Bundled environments, announced by entry points and imported when one is made."""
