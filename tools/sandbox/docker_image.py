"""The image of the backend `docker`: the one that the user names, or this machine's Python without a registry.

What runs here runs there: the interpreter, its standard library, the packages asked for with what they require, the
shared libraries that all of it is linked to, and the usual small programs are packed in a tar archive that the engine
imports. The tag is a digest of what went in: an image is made once on a machine, and anew when a package changes.

Invariant: an image holds nothing but these files, readable by everybody, owned by root; no path of the user's is in it.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement

from agentrl.errors import SandboxError
from agentrl.models.progress import Report, reporting

from .docker_engine import Engine

REPOSITORY = "agentrl-python"
IMPORT_SECONDS = 600
_PREFIX = "/usr/local"
"""Where the interpreter is in the image, whatever its place here."""
_LEFT_OUT = re.compile(
    r"(^|/)(tests?|idlelib|tkinter|turtledemo|ensurepip|site-packages|dist-packages|config-[^/]+)(/|$)"
)
_TESTS = re.compile(r"(^|/)tests(/|$)")
_PROGRAMS = """
sh bash ls cat cp mv rm mkdir rmdir touch ln chmod echo printf head tail sort uniq wc cut tr tee seq date sleep test env
true false pwd basename dirname find grep egrep fgrep sed awk xargs diff cmp comm paste join tar gzip gunzip du df stat
expr id whoami timeout nproc od base64 md5sum sha256sum readlink realpath mktemp yes split tac rev nl kill ps setsid
nohup
"""
_ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/tmp/work:/bin/sh\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}
_CHANGES = [
    f"ENV PATH={_PREFIX}/bin:/usr/bin:/bin",
    f"ENV LD_LIBRARY_PATH={_PREFIX}/lib",
]


class Image:
    """The image that an engine's containers are made of."""

    def __init__(self, engine: Engine, named: str | None, packages: Sequence[str]) -> None:
        self._engine = engine
        self._named = named
        self._packages = tuple(packages)
        self._ready: str | None = None
        self._lock = threading.Lock()

    def name(self) -> str:
        """The image's name, when the engine has it: pulled or made if need be. Raises `SandboxError`."""
        with self._lock:  # whoever comes second has nothing to do but wait: without an image nothing starts
            if self._ready is None:
                self._ready = self._pulled(self._named) if self._named else self._made()
            return self._ready

    def _pulled(self, named: str) -> str:
        from docker.errors import DockerException, ImageNotFound

        with self._engine.client() as client, reporting() as report:
            try:
                client.inspect_image(named)
            except ImageNotFound:
                report(f"pulling the image {named}")
                try:
                    client.pull(named, tag=None if ":" in named.rpartition("/")[2] else "latest")
                except DockerException as error:
                    raise SandboxError(f"the engine has no image {named!r} and cannot pull it: {error}") from error
        return named

    def _made(self) -> str:
        from docker.errors import ImageNotFound

        files = Contents(self._packages)
        tag = f"{REPOSITORY}:{files.digest()}"
        lock = FileLock(Path(tempfile.gettempdir()) / f"{tag.replace(':', '-')}-{os.getuid()}.lock")
        with lock, self._engine.client() as client, reporting() as report:
            try:
                client.inspect_image(tag)
            except ImageNotFound:
                _import(self._engine, tag, files, report)
        return tag


def _import(engine: Engine, tag: str, files: Contents, report: Report) -> None:
    from docker import APIClient
    from docker.errors import DockerException

    stage = f"making the Docker image {tag} of this machine's Python"
    report(stage)
    with tempfile.TemporaryFile() as archive:
        files.pack(archive, report, stage)
        archive.seek(0)
        client = APIClient(base_url=engine.url, version="auto", timeout=IMPORT_SECONDS)
        try:
            repository, _, version = tag.partition(":")
            client.import_image(archive, repository=repository, tag=version, changes=_CHANGES)
            client.inspect_image(tag)
        except (DockerException, OSError) as error:
            raise SandboxError(f"the image {tag} could not be imported: {error}") from error
        finally:
            client.close()


class Contents:
    """The files of an image: place in the image to place here."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._distributions = {name: importlib.metadata.distribution(name) for name in sorted(_closure(packages))}

    def digest(self) -> str:
        """Of everything that decides what is in the image; packages list the digests of their own files."""
        digest = blake2b(digest_size=8)
        parts = [sys.version, *_CHANGES, Path(__file__).read_text(encoding="utf-8")]
        parts += [f"{name} {made.version} {made.read_text('RECORD')}" for name, made in self._distributions.items()]
        parts += [f"{path} {os.path.getmtime(path)}" for path in _program_paths().values()]
        for part in parts:
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()

    def pack(self, archive: io.IOBase, report: Report, stage: str) -> None:
        """Write the tar archive of the image."""
        files = dict(self._files())
        files |= _libraries(list(files.values()))
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for folder in ("tmp", "proc", "sys", "dev", "etc"):
                tar.addfile(_entry(folder, tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755))
            for place, data in _ACCOUNTS.items():
                tar.addfile(_entry(place, tarfile.REGTYPE, 0o644, len(data)), io.BytesIO(data))
            for done, (place, path) in enumerate(sorted(files.items())):
                with open(path, "rb") as file:
                    status = os.fstat(file.fileno())
                    entry = _entry(place, tarfile.REGTYPE, 0o755 if status.st_mode & 0o100 else 0o644, status.st_size)
                    entry.mtime = int(status.st_mtime)  # compiled modules are valid for their source's time
                    tar.addfile(entry, file)
                if done % 500 == 0:
                    report(stage, done, len(files))

    def _files(self) -> Iterator[tuple[str, str]]:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        executable = os.path.realpath(sys.executable)
        for name in ("python3", "python", version):
            yield f"{_PREFIX[1:]}/bin/{name}", executable
        library = f"{_PREFIX[1:]}/{sys.platlibdir}/{version}"
        for standard in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
            yield from _tree(standard, library)
        for made in self._distributions.values():
            for file in made.files or ():
                path = os.path.realpath(str(made.locate_file(file)))
                if ".." not in file.parts and not _TESTS.search(str(file)) and os.path.isfile(path):
                    yield f"{library}/site-packages/{file}", path
        for name, path in _program_paths().items():
            yield f"usr/bin/{name}", path
        yield "bin/sh", _program_paths()["sh"]


def missing(packages: Sequence[str]) -> str | None:
    """Why no image can be made of this machine's Python, with what to do; None if it can."""
    if not sys.platform.startswith("linux") or shutil.which("ldd") is None:
        return "an image can be made of this machine's Python only on Linux with ldd; name one: image='python:3.12'"
    for package in packages:
        try:
            importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            return f"packages={package!r} is not installed here: pip install {package}"
    return None


def _closure(packages: Sequence[str]) -> set[str]:
    """The packages and everything that they require, by name."""
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                waiting.append(required.name)
    return found


def _tree(folder: str, place: str) -> Iterator[tuple[str, str]]:
    for root, _, names in os.walk(folder):
        inside = os.path.relpath(root, folder)
        if _LEFT_OUT.search(inside):
            continue
        for name in names:
            yield os.path.normpath(f"{place}/{inside}/{name}"), os.path.realpath(os.path.join(root, name))


def _program_paths() -> dict[str, str]:
    found = {name: shutil.which(name, path="/usr/bin:/bin") for name in _PROGRAMS.split()}
    return {name: os.path.realpath(path) for name, path in found.items() if path}


def _libraries(paths: list[str]) -> dict[str, str]:
    """The shared libraries that binaries among `paths` are linked to: place in the image to place here."""
    binaries = [path for path in dict.fromkeys(paths) if ".so" in path or (os.access(path, os.X_OK) and _is_elf(path))]
    found: dict[str, str] = {}
    for start in range(0, len(binaries), 200):
        listed = subprocess.run(["ldd", *binaries[start : start + 200]], capture_output=True, text=True, check=False)
        for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed.stdout, flags=re.MULTILINE):
            ours = os.path.realpath(path).startswith(os.path.realpath(sys.base_prefix) + os.sep)
            system = path.startswith(("/lib", "/usr/lib"))
            if system and not (ours and sys.base_prefix != "/usr"):
                found[path[1:]] = os.path.realpath(path)
            elif "site-packages" not in path:  # those of packages find their own beside them
                found[f"{_PREFIX[1:]}/lib/{os.path.basename(path)}"] = os.path.realpath(path)
    return found


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _entry(place: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(place)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry
