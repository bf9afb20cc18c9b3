"""Prints pyproject's dependencies, or those of the extras that are named, one a line, for pip."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for line in [r for extra in sys.argv[1:] for r in project["optional-dependencies"][extra]] or project["dependencies"]:
    print(line)
