"""How long the doctor takes for a dataset of so many images of COCO's size, and how much memory.

.venv/bin/python -m benchmarks.doctor 2000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pictures import photograph, write_pictures

SIZE, OBJECTS = (480, 640), 7  # COCO has 7.3 an image


def measure(folder: Path, images: int) -> dict[str, Any]:
    """Seconds and peak memory of ``tools/check_dataset.py --html`` on generated images.

    Args:
        folder: for the images, unless they are there already, and the page.
    """
    data = folder / "images" / "annotations.json"
    if not data.is_file():
        write_pictures(data.parent, images, SIZE, OBJECTS, background=photograph)
    command = [sys.executable, str(Path(__file__).parents[1] / "tools" / "check_dataset.py")]
    command += ["--format", "coco", "--annotations", str(data), "--image-root", str(data.parent)]
    command += ["--html", str(folder / "doctor.html"), "--json", str(folder / "doctor.json")]
    start = time.perf_counter()
    with (folder / "doctor.txt").open("w") as told:
        subprocess.run(command, stdout=told, check=False)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    content = json.loads((folder / "doctor.json").read_text())
    return {
        "images": content["datasets"][0]["images"],
        "seconds": round(seconds, 1),
        "CPU seconds": round(used.ru_utime + used.ru_stime, 1),
        "MB of the largest process": round(used.ru_maxrss / 1024),
        "findings": {found["kind"]: found["count"] for found in content["findings"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the dataset doctor.")
    parser.add_argument("images", type=int, nargs="?", default=2000)
    parser.add_argument("--folder", type=Path, help="kept, with its images, for the next run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark_doctor_") as own:
        folder = args.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(folder, args.images), indent=1))


if __name__ == "__main__":
    main()
