"""Rollouts: the asyncio manager and the strategies over it."""
