# SPDX-License-Identifier: Apache-2.0
"""Nested mappings to frozen dataclasses, strictly, and the differences between two mappings."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any

from data_pipeline.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def build(kind: Any, value: Any, path: str) -> Any:
    """`value` as the type `kind`: a dataclass, a dict[str, dataclass] or a plain type.

    Raises:
        ConfigError: naming the dotted key that is unknown, missing or of another type.
    """
    if typing.get_origin(kind) is dict:
        require(isinstance(value, Mapping), f"{path} must be a group of keys, not {value!r}")
        element = typing.get_args(kind)[1]
        return {key: build(element, value[key], f"{path}.{key}") for key in sorted(value)}
    if not dataclasses.is_dataclass(kind):
        return _plain(kind, value, path)
    require(isinstance(value, Mapping), f"{path} must be a group of keys, not {value!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in value:
        near = difflib.get_close_matches(key, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(fields)}"
        require(key in fields, f"{path}.{key} does not exist: {hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        require(name in value or not required, f"{path}.{name} is missing")
    hints = typing.get_type_hints(kind)
    built = {key: build(hints[key], value[key], f"{path}.{key}") for key in value}
    return typing.cast(type, kind)(**built)


def _plain(kind: type, value: Any, path: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    require(
        type(value) is kind, f"{path} must be of type {kind.__name__}, not {type(value).__name__}"
    )
    require(kind is not float or math.isfinite(value), f"{path} must be finite, not {value}")
    return value


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Dotted keys on which two nested mappings disagree, as `key: saved -> current` lines."""
    before = {key: repr(value) for key, value in _flatten(saved).items()}
    after = {key: repr(value) for key, value in _flatten(current).items()}
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    ]


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
