"""Run the authors' code of a method and write its golden file. Tests do not run this.

    PYTHONPATH=src:tests python tests/golden/make.py stflow DIR

DIR is a checkout of the repository and commit that ``upstream/NAME.py`` names, in an environment
with the packages that the authors' code imports (also named there) besides those of this project.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import golden

UPSTREAM = Path(__file__).parent / "upstream"


def main() -> None:
    names = sorted(p.stem for p in UPSTREAM.glob("*.py") if p.stem != "__init__")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=names)
    parser.add_argument("checkout", type=Path, help="the authors' repository")
    given = parser.parse_args()
    upstream = importlib.import_module(f"golden.upstream.{given.name}")
    git = ["git", "-C", str(given.checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    if commit != upstream.COMMIT:
        sys.exit(f"{given.checkout} is at {commit}: check out {upstream.COMMIT}")
    sys.path.insert(0, str(given.checkout))
    made: golden.Golden = upstream.make()
    path = made.save(given.name)
    print(f"{path}: {path.stat().st_size} bytes, {', '.join(made.outputs)}")


if __name__ == "__main__":
    main()
