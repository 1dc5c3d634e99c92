"""The schema of an experiment, judged by an independent reader of draft-07: it accepts every experiment and refuses
what the program refuses."""
import copy
import json
import pathlib
import sys

try:
    import jsonschema
except ImportError:
    print("schema_test: skipped: the Python module jsonschema is absent (Debian's package is python3-jsonschema)")
    sys.exit(77)

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments"
SCHEMA = json.loads((FOLDER / "experiment.schema.json").read_text())
EXPERIMENTS = sorted(p for p in FOLDER.glob("*.json") if not p.name.endswith(".schema.json"))
ABSENT = object()

# Path and new value; each makes an experiment that is none.
MISTAKES = [
    ("train.epocs", 5), ("data.size", 1), ("model.encoder.0.unit", 1), ("extra", 0),
    ("name", ABSENT), ("data", ABSENT), ("train.epochs", ABSENT), ("model.encoder.0.units", ABSENT),
    ("train.epochs", "5"), ("train.epochs", 1.5), ("data", "mnist"), ("model.encoder", {}), ("model.encoder.0", 5),
    ("train.epochs", 0), ("train.epochs", 1000001), ("train.batch_size", 65537), ("model.latent", 0),
    ("seed", -1), ("seed", 2**53), ("optimizer.learning_rate", 0), ("optimizer.beta1", 1), ("objective.beta", -1),
    ("name", "../up"), ("name", ""), ("optimizer.type", "adm"), ("model.encoder.0.type", "conv"),
    ("model.encoder", [{"type": "dense", "units": 1}] * 65), ("$schema", 5),
    ("model.variance", 1), ("model.variance", "learned"), ("model.mean", "sigmoid"), ("model.initialization", {"std": 1}), ("optimizer.momentum", 0.5),
]


def changed(spec, path, value):
    spec = copy.deepcopy(spec)
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = spec
    for step in way:
        place = place[step]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return spec


def main():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft7Validator(SCHEMA)
    failures = [f"{p.name}: {e.json_path}: {e.message}"
                for p in EXPERIMENTS for e in validator.iter_errors(json.loads(p.read_text()))]
    good = json.loads((FOLDER / "mnist-2d.json").read_text())
    failures += [f"{path} = {value}: the schema accepts it"
                 for path, value in MISTAKES if validator.is_valid(changed(good, path, value))]
    if len(EXPERIMENTS) < 8:
        failures.append(f"only {len(EXPERIMENTS)} experiments in {FOLDER}")
    print("\n".join(failures) or f"{len(EXPERIMENTS)} experiments, {len(MISTAKES)} mistakes: as expected")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
