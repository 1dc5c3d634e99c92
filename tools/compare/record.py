"""What every result says about where it comes from, and the file that it goes to."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def origin():
    cpu = platform.processor() or platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command(),
    }


def command():
    """As it would be typed in the project's folder: a path of this machine is of no use elsewhere. Of one outside the
    project the last part is kept; a temporary file, in which another program wanted the result, is left out."""
    words = [pathlib.Path(sys.executable).name]
    for word in sys.argv:
        path = pathlib.Path(word)
        if not path.is_absolute():
            words.append(word)
        elif path.is_relative_to(ROOT):
            words.append(str(path.relative_to(ROOT)))
        elif not path.is_relative_to(tempfile.gettempdir()):
            words.append(path.name)
        elif words[-1].startswith("--"):
            words.pop()
    return shlex.join(words)


def output(path):
    """The path of an option, refused before anything is measured where no file can be written there."""
    if pathlib.Path(path).is_dir() or not os.access(pathlib.Path(path).parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path}: cannot be written")
    return path


def positive(text):
    """The whole number of an option, 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: less than 1")
    return int(text)


def write_json(path, result):
    """All or nothing, so that a file that is there is a result that is whole."""
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(result, indent=2) + "\n")
    unfinished.rename(path)


def tell(text, path):
    """Prints what was found; to the file, too, if there is a path."""
    print(f"\n{text}", end="")
    if path:
        pathlib.Path(path).write_text(text)


def mean_and_deviation(values):
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
