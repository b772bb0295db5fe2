"""Values as JSON that says one thing in one way: what is hashed, compared and written."""

import json
import math


def plain(value, name: str = "record"):
    """`value` in JSON's own types; numpy and torch values become lists and numbers.

    Raises ValueError, naming the key, for NaN, infinity, a key that is not a string, or a type that JSON lacks.
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{name}: key {key!r} is not a string; write it as one")
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "tolist"):  # of numpy, torch
        return plain(value.tolist(), name)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: leave the key out or store null, and say why in a key of its own")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{name}: {type(value).__name__} does not fit in JSON; pass numbers, strings, lists or dicts")


def canonical(value, name: str = "record") -> str:
    """One line of JSON with sorted keys: equal values give equal text, whatever their order. Raises as `plain`."""
    return json.dumps(plain(value, name), sort_keys=True, allow_nan=False)
