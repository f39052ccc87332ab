"""A GGUF file becomes a folder in transformers form that can be trained.

transformers reads GGUF, but the model it returns carries a quantisation configuration: it refuses to be saved and says
that it cannot be trained, although its weights are dequantised already. So the weights move into a fresh model built
from the configuration without that entry. Invariant: what was saved equals what was read, tensor for tensor (checked).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from agentrl.errors import ModelError
from agentrl.models.progress import Report
from agentrl.models.quiet import without_bars
from agentrl.models.text import one_line

_auto = cast(Any, AutoModelForCausalLM)  # its annotations leave out output_loading_info


def fp32_bytes(file: Path) -> int:
    """Bytes of a GGUF file's tensors in float32; raises `ModelError` where the file cannot be read."""
    from gguf import GGUFReader

    try:
        return sum(4 * int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(f"{file} is no readable GGUF file ({one_line(error)}): fetch it again") from error


def convert_gguf(file: Path, target: Path, title: str, report: Report) -> None:
    """Write the model and tokenizer of `file` into the folder `target`, as float32 safetensors.

    Raises `ModelError` where transformers cannot read the file (an architecture it does not know, damaged content).
    """
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    report(f"converting {title}: reading the weights")
    with _reading(file):
        loaded, info = _auto.from_pretrained(file.parent, dtype=torch.float32, output_loading_info=True, **where)
        if info["missing_keys"]:
            raise ValueError(f"weights are missing: {sorted(info['missing_keys'])[0]}")
        model = _without_quantisation(loaded)
    report(f"converting {title}: reading the tokenizer")
    with _reading(file):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    report(f"converting {title}: writing safetensors")
    try:
        with without_bars():
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
        _check_saved(model, target)
    except SafetensorError as error:
        raise ModelError(
            f"cannot write {title} ({one_line(error)}): make room, or set AGENTRL_CACHE to another disk"
        ) from error


def _without_quantisation(loaded: PreTrainedModel) -> PreTrainedModel:
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):  # no memory, no random initialisation: the weights are assigned, not copied
        model: PreTrainedModel = _auto.from_config(type(loaded.config).from_dict(settings))
    model.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model


def _check_saved(model: PreTrainedModel, folder: Path) -> None:
    state = model.state_dict()
    seen: set[int] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as saved:
            for key in saved.keys():  # noqa: SIM118 (not a mapping)
                if not torch.equal(saved.get_tensor(key), state[key]):
                    raise ModelError(f"{path.name} differs from what was written ({key}): the disk is not reliable")
                seen.add(state[key].data_ptr())
    lost = sorted(key for key, tensor in state.items() if tensor.data_ptr() not in seen)
    if lost:  # tied weights share their storage with a saved one, so they are not lost
        raise ModelError(f"the converted model lacks {lost[0]}: its architecture cannot be converted")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        with _muted():
            yield
    except Exception as error:  # a foreign reader of a foreign file: whatever it raises, the file is the matter
        raise ModelError(f"transformers cannot read {file} ({one_line(error)}): use another file") from error


@contextmanager
def _muted() -> Iterator[None]:
    """transformers' own bars offer no switch while it reads a GGUF file; they would break ours."""
    with redirect_stderr(io.StringIO()):
        yield
