"""Make the pictures of the documentation from a demo: `python docs/make_pictures.py build/demo`.

Needs Playwright and a Chromium (environment variable CHROMIUM, or `chromium` on the path).
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
WINDOW = {"width": 1440, "height": 802}
MAX_WIDTH_PX = 1400
QUALITY = 90


def main() -> None:
    """Write `images/comparison.webp` and `images/report.webp`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder that `vfm-transfer demo` wrote")
    folder = parser.parse_args().demo
    IMAGES.mkdir(exist_ok=True)
    write_small(folder / "comparison.png", IMAGES / "comparison.webp")
    shot = folder / "screenshot.png"
    photograph(folder / "report.html", shot)
    write_small(shot, IMAGES / "report.webp")
    shot.unlink()


def photograph(page_path: Path, target: Path) -> None:
    """The page as a browser shows it."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)
        page.goto(page_path.resolve().as_uri())
        page.wait_for_selector("body[data-ready]")
        page.screenshot(path=target)
        browser.close()


def write_small(source: Path, target: Path) -> None:
    """The picture at most `MAX_WIDTH_PX` wide, in a format that keeps thin colored outlines at a small size."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((MAX_WIDTH_PX, MAX_WIDTH_PX))
    picture.save(target, quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
