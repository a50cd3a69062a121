"""``make sbom`` names every distribution of every image, with its version and hashes, and no other."""

import json
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.deploy.requirements import FILES_OF_IMAGE, ROOT, read_pins

FILES = FILES_OF_IMAGE | {"embedder-cuda": ("torch-cuda", "embedder")}


def test_each_bill_names_what_the_image_installs(tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    command = ["make", "--old-file=setup", "sbom", f"BIN={bin_folder}", f"SBOM={tmp_path}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"eyebright-{image}.cdx.json" for image in FILES}
    for image, names in FILES.items():
        bill = json.loads((tmp_path / f"eyebright-{image}.cdx.json").read_text("utf-8"))
        assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "eyebright")
        listed = {
            canonicalize_name(part["name"]): (
                part["version"],
                {hashed["content"] for place in part["externalReferences"] for hashed in place.get("hashes", ())},
            )
            for part in bill["components"]
        }
        pins = read_pins(*names)
        assert listed == {pin.name: (pin.version, set(pin.hashes)) for pin in pins.values()}
