"""Build hook: a wheel, and an editable install, carry stubs generated from the .proto files of their own source."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsBuildHook(BuildHookInterface[Any]):
    """Generate the stubs before hatchling collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Called once per build target by hatchling."""
        runpy.run_path(str(Path(self.root) / "protos" / "generate.py"))["generate"]()
