"""Sandboxes: one backend a module (or a few), all speaking to the same guest program over the same channel."""
