"""Chat templates in the manner of public models, and small tokenizers of their kinds to render them with.

`TEMPLATES` are four miniatures; `FAMILIES` are whole ones, from the files in `tests/chat/families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's: a default system prompt, no tools."""

QWEN = (
    "{%- set default = 'You are Qwen.' %}"
    "{{- '<|im_start|>system\\n' + (messages[0].content if messages[0].role == 'system' else default) }}"
    "{%- if tools %}{{- '\\n\\n# Tools\\n' }}{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}"
    '{{- \'Answer with <tool_call>\\n{"name": <name>, "arguments": <args>}\\n</tool_call>\' }}{%- endif %}'
    "{{- '<|im_end|>\\n' }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- elif message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Qwen 2.5's shape: tools in the system message, tool results in user messages."""

LLAMA = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message.role) }}{%- endif %}"
    "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
"""Llama 3's headers, with a template that refuses the role `tool`."""

QWEN3 = (
    "{%- set ns = namespace(last=-1) %}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and loop.index0 < ns.last and '</think>' in message.content %}"
    "{{- '<|im_start|>assistant\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Qwen 3's rewriting: the thinking of turns before the last user message is dropped."""

TEMPLATES = {"chatml": CHATML, "qwen": QWEN, "llama": LLAMA, "qwen3": QWEN3}

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Llama 3's and Qwen's word pattern: line ends never join the word behind them, so a turn's ids start afresh."""
_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
_CORPUS = [
    "user\nassistant\n\nWhat is the answer? <tool_call>\n</tool_call>\n\n  the tool says 1 2 3 and then  stops\n"
] * 4


@dataclass(frozen=True)
class Family:
    """A published family's chat template and the kind of tokenizer that it comes with."""

    template: str
    """Stem of the file in `tests/chat/families`, or a name in `TEMPLATES`."""
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    plain: tuple[str, ...] = ()
    """Added tokens that are not flagged as special."""
    variables: dict[str, object] = field(default_factory=dict)
    """What the template's family members differ in."""
    kind: Literal["bytes", "pieces"] = "bytes"
    """Byte-level BPE, or SentencePiece-like: Unigram over words that begin with `\u2581`, with fall-back to bytes."""
    prefix_space: bool = False
    """For `pieces`: a space is put before the first word of a text."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A small tokenizer with the family's special tokens and template."""
        core = _bytes_core(self.special) if self.kind == "bytes" else _pieces_core(self.special, self.prefix_space)
        core.add_tokens(list(self.plain))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=self.bos, eos_token=self.eos)
        tokenizer.add_special_tokens({"extra_special_tokens": list(self.special)})
        tokenizer.chat_template = self.text()
        return tokenizer

    def text(self) -> str:
        """The template with its variables set."""
        file = _FOLDER / f"{self.template}.jinja"
        body = file.read_text(encoding="utf-8").removesuffix("\n") if file.exists() else TEMPLATES[self.template]
        return "".join(f"{{%- set {name} = {value!r} -%}}" for name, value in self.variables.items()) + body


_FOLDER = Path(__file__).parent / "families"
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_MISTRAL_CALLS = ("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
_HARMONY = ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>")
_DEEPSEEK_CALLS = ("calls\u2581begin", "calls\u2581end", "call\u2581begin", "call\u2581end", "sep")
_DEEPSEEK_OUTPUTS = ("outputs\u2581begin", "outputs\u2581end", "output\u2581begin", "output\u2581end")
_DEEPSEEK_PLAIN = (
    *("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"),
    *(f"<\uff5ctool\u2581{part}\uff5c>" for part in (*_DEEPSEEK_CALLS, *_DEEPSEEK_OUTPUTS)),
)
_DEEPSEEK = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
_GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")


def _chatml(template: str, **variables: object) -> Family:
    return Family(template, _CHATML, "<|im_end|>", plain=_THINK, variables=variables)


def _mistral(version: int, space: str = "", kind: Literal["bytes", "pieces"] = "bytes") -> Family:
    variables = {"version": version, "space": space}
    special = _MISTRAL + _MISTRAL_CALLS
    return Family("mistral", special, "</s>", "<s>", variables=variables, kind=kind, prefix_space=kind == "pieces")


def _deepseek(thinks: bool, teaches: bool = False) -> Family:
    variables = {"thinks": thinks, "teaches": teaches}
    return Family("deepseek", _DEEPSEEK, _DEEPSEEK[1], _DEEPSEEK[0], plain=_DEEPSEEK_PLAIN, variables=variables)


FAMILIES: dict[str, Family] = {
    "Qwen 2.5": _chatml("qwen2_5"),
    "Qwen 3 (hybrid thinking)": _chatml("qwen3", thinks=True),
    "Qwen 3 Instruct-2507": _chatml("qwen3", thinks=False),
    "Qwen 3 Coder": _chatml("qwen3_coder"),
    "Llama 3.1, 3.2, 3.3": Family(
        "llama3", (*_LLAMA, "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"), "<|eot_id|>", "<|begin_of_text|>"
    ),
    "SmolLM2": Family("chatml", _CHATML, "<|im_end|>"),
    "SmolLM3": _chatml("smollm3"),
    "Mistral v0.3 (SentencePiece)": _mistral(3, " ", "pieces"),
    "Mistral v3-tekken": _mistral(3),
    "Mistral v7": _mistral(7),
    "DeepSeek V3": _deepseek(thinks=False),
    "DeepSeek V3 (servers' template for calls)": _deepseek(thinks=False, teaches=True),
    "DeepSeek R1, R1-distill": _deepseek(thinks=True),
    "Gemma 2": Family("gemma", _GEMMA, "<eos>", "<bos>", variables={"merges_system": False}, kind="pieces"),
    "Gemma 3": Family("gemma", _GEMMA, "<eos>", "<bos>", variables={"merges_system": True}, kind="pieces"),
    "gpt-oss (harmony)": Family("gpt_oss", (*_HARMONY, "<|message|>", "<|call|>"), "<|return|>", "<|startoftext|>"),
}


def make_tokenizer(template: str | None = "chatml", eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 350 tokens, with merges across spaces and newlines."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_bytes_core(_SPECIAL), bos_token="<|begin|>", eos_token=eos)
    tokenizer.add_special_tokens({"extra_special_tokens": _SPECIAL})
    tokenizer.chat_template = None if template is None else TEMPLATES[template]
    return tokenizer


def _bytes_core(special: Sequence[str]) -> Tokenizer:
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    return core


def _pieces_core(special: Sequence[str], prefix_space: bool) -> Tokenizer:
    words = [
        "\u2581answer",
        "\u2581the",
        "\u2581tool",
        "\u2581says",
        "\u2581",
        "\u2581\u2581",
        "\n",
        "\n\n",
        "user\n",
        "model",
    ]
    letters = sorted({letter for text in (*_CORPUS, *words) for letter in text})
    pieces = [*special, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys([*words, *letters])]
    core = Tokenizer(
        Unigram(
            [(piece, -float(index % 7 + 1)) for index, piece in enumerate(pieces)], len(special), byte_fallback=True
        )
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix_space else "never", split=False)
    core.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(prepend_scheme="first" if prefix_space else "never", split=False),
            decoders.Fuse(),
        ]
    )
    core.add_special_tokens(list(special))
    return core
