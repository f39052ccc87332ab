"""Engines: who generates. `base` is the contract, every other module one engine or a part of one."""
