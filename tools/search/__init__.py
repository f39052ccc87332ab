"""The tools `search` and `read_page`: BM25 over a local corpus, or a remote retrieval server.

There are two tools and not one with a switch: each has one purpose and one required argument, so no combination of
arguments is invalid, and an environment for a small policy offers `search` alone. Both read the same index.
"""

from .tool import ReadPage, SearchTool

__all__ = ["ReadPage", "SearchTool"]
