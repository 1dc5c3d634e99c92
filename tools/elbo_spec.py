"""The experiments of elbo as Python reads them. Needs nothing but Python."""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def load_spec(name):
    """An experiment with every default filled in: experiments/NAME.json, or the path of a JSON file."""
    path = pathlib.Path(name)
    if path.suffix != ".json":
        path = ROOT / "experiments" / f"{name}.json"
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    spec = with_defaults(given, json.loads((ROOT / "experiments/experiment.schema.json").read_text()))
    # the one default that depends on another field
    spec["optimizer"].setdefault("epsilon", 1e-10 if spec["optimizer"]["type"] == "adagrad" else 1e-8)
    return spec


def with_defaults(value, schema):
    if schema.get("type") == "array":
        return [with_defaults(item, schema["items"]) for item in value]
    if "properties" not in schema:
        return value
    filled = dict(value)
    for name, field in schema["properties"].items():
        if name in value or "properties" in field:
            filled[name] = with_defaults(value.get(name, {}), field)
        elif "default" in field:
            filled[name] = field["default"]
    return filled
