"""From a spec in a configuration to a component: one helper for every slot that is filled by name.

A spec is a name, or `{"name": ..., option: value, ...}`; the options are the keyword arguments of the component's
constructor and nothing else. Invariant: an option that the constructor does not have, lacks or cannot take is a
`ConfigError` of one line before the component exists; a component never sees an option of the wrong type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, create_model

from agentrl.errors import ConfigError
from agentrl.registry import Registry, nearest

T = TypeVar("T")

Spec = str | Mapping[str, Any]
"""A component by name, or a mapping with the key `name` and the constructor's options."""

_OPTIONS = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
_BOUND_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def split_spec(spec: Spec) -> tuple[str, dict[str, Any]]:
    """Name and options of a spec; raises `ConfigError` if it is no spec."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{spec!r} names no component; write a name or {{name: ..., option: value}}")
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{dict(spec)!r} names no component; it needs the key 'name'")
    return name, options


def construct(registry: Registry[Any], spec: Spec, *args: Any) -> Any:
    """The component that `spec` describes, called with `args` and the spec's options.

    Raises `UnknownNameError` for the name, `ConfigError` for an option; both are one line with the nearest valid names.
    """
    name, options = split_spec(spec)
    factory = registry.get(name)
    return factory(*args, **checked_options(f"{registry.kind} {name!r}", factory, options, bound=len(args)))


def checked_options(
    label: str, factory: Callable[..., Any], options: Mapping[str, Any], *, bound: int = 0
) -> dict[str, Any]:
    """`options` converted to the types that `factory` annotates; `bound` leading parameters are given by position.

    `label` begins the message of the `ConfigError` that an unknown, missing or wrong option raises. Text that reads as
    a number is one: YAML 1.1 takes `1e-6` for text.
    """
    parameters = list(_signature(factory).parameters.values())[bound:]
    named = {parameter.name: parameter for parameter in parameters if parameter.kind in _BOUND_BY_KEYWORD}
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for key in options:
        if key not in named and not open_ended:
            raise ConfigError(f"{label} has no option {key!r}; {_offer(str(key), list(named))}")
    # Aliases, since an option may be called like an attribute of pydantic's models ("copy", "schema").
    fields = {f"option_{index}": _field(parameter) for index, parameter in enumerate(named.values())}
    model = create_model("Options", __config__=_OPTIONS, **fields)  # type: ignore[call-overload]
    try:
        validated = model(**options)
    except ValidationError as error:
        raise ConfigError(_one_line(label, error)) from None
    converted = {name: getattr(validated, f"option_{index}") for index, name in enumerate(named)}
    return {key: converted.get(key, value) for key, value in options.items()}


def one_of(key: str, value: T, valid: Iterable[T]) -> T:
    """`value` if it is one of `valid`, else a `ConfigError` that names the key and the nearest valid values."""
    choices = list(valid)
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}; {nearest(str(value), [str(choice) for choice in choices])}")
    return value


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(factory, eval_str=True)
    except NameError:  # an annotation that exists for type checkers only: options are then taken as they come
        signature = inspect.signature(factory)
        untyped = [item.replace(annotation=inspect.Parameter.empty) for item in signature.parameters.values()]
        return signature.replace(parameters=untyped)


def _field(parameter: inspect.Parameter) -> tuple[Any, Any]:
    annotation = Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    return annotation, Field(default, alias=parameter.name)


def _offer(key: str, names: list[str]) -> str:
    return nearest(key, names) if names else "it takes no options"


def _one_line(label: str, error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{label} needs the option {path!r}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{label}: option {path!r} is {first['input']!r}: {message[:1].lower()}{message[1:]}"
