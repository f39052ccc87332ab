"""The viewer: a local page over run stores, served by a small server, made from files of this package alone.

Invariants: it only reads (no request changes a store, a file or the server's state that others see); whatever comes
from a store is hostile text: every string a template prints is made visible (`agentrl.text.visible`) and escaped, and
the pages run no inline script and load nothing from elsewhere; every filter, order and selection stands in the address.

`create_app` makes the ASGI application, `serve` runs it.
"""

from __future__ import annotations

from agentrl.viewer.app import create_app
from agentrl.viewer.catalog import Catalog
from agentrl.viewer.server import serve

__all__ = ["Catalog", "create_app", "serve"]
