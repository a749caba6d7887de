"""The pictures of the README and of docs/results.md, from the demo: ``make pictures``. Needs Chromium."""

import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

RESULTS, HERE = Path("results/demo_all"), Path(__file__).parent
#: Wide enough to read on a page, small enough to keep in a repository.
WIDTH = 1000


def shrink(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        picture = image.convert("RGB")
        picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
        picture.quantize(256).save(target, optimize=True)


def main() -> None:
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None
    )
    if browser is None:
        sys.exit("no Chromium: apt-get install chromium")
    page, shot = (RESULTS / "report/index.html").resolve(), HERE / "report.png"
    size = ["--window-size=1400,1000", f"--screenshot={shot}"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *size]
    subprocess.run([browser, *flags, page.as_uri()], check=True, capture_output=True)
    shrink(shot, shot)
    shrink(RESULTS / "paper/figures/gene_maps.png", HERE / "gene_maps.png")


if __name__ == "__main__":
    main()
