"""`agentrl/Search-v0`: questions whose answers are found by searching articles, one hop after another."""

from .env import SearchEnv

__all__ = ["SearchEnv"]
