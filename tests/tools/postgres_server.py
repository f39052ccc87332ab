"""A PostgreSQL server of the tests' own, from the programs that the system ships.

It listens on a socket in a temporary folder only, holds nothing of value and does not survive the test session. The
server refuses to run as root, so root runs it as the user `postgres` or `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.tools.sql_support import SCRIPT

READER, WRITER = "agent", "author"
_SETUP = f"""
CREATE ROLE {READER} LOGIN;
CREATE ROLE {WRITER} LOGIN CREATEDB;
ALTER ROLE {READER} SET temp_file_limit = '64MB';
"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    folder: Path

    def url(self, role: str = READER, database: str = "shop") -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """As the superuser."""
        return psycopg.connect(host=str(self.folder), dbname=database, user="postgres", autocommit=True)


def programs() -> Path | None:
    """The folder of the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    which = shutil.which("postgres")
    return Path(which).resolve().parent if which else None


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    """A server with the databases `shop` and `stock`, a role that may only read them and one that owns them."""
    folder = Path(tempfile.mkdtemp(prefix="agentrl-pg-"))
    user = _user()
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=50"
        data = str(folder / "data")
        _run(binaries, user, ["initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"])
        _run(binaries, user, ["pg_ctl", "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start"])
        try:
            server = Server(folder)
            _fill(server)
            yield server
        finally:
            _run(binaries, user, ["pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(server: Server) -> None:
    with server.connect() as connection:
        for statement in filter(str.strip, _SETUP.split(";")):
            connection.execute(statement)
        connection.execute(f"CREATE DATABASE shop OWNER {WRITER}")
    with server.connect("shop") as connection:
        connection.execute(f"SET ROLE {WRITER}")
        for statement in filter(str.strip, SCRIPT.split(";")):
            connection.execute(statement)
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE stock OWNER {WRITER} TEMPLATE shop")


def _user() -> pwd.struct_passwd | None:
    """Whom root becomes to run the server."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("root needs a user postgres or nobody to run PostgreSQL as")


def _run(binaries: Path, user: pwd.struct_passwd | None, command: list[str]) -> None:
    done = subprocess.run(
        [str(binaries / command[0]), *command[1:]],
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the server keeps it open
        stderr=subprocess.PIPE if command[0] == "initdb" else subprocess.DEVNULL,
        timeout=120,
    )
    if done.returncode:
        said = (done.stderr or b"").decode(errors="replace").strip()
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {said[-500:]}")
