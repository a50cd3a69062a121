"""deploy/docker/Dockerfile as tests read it: its stages and their instructions."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
IMAGES = ("embedder", "index", "client")


@dataclass(slots=True)
class Stage:
    """One stage: what it starts from, and its instructions in order, as (name, arguments)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, instruction: str) -> list[str]:
        return [arguments for name, arguments in self.instructions if name == instruction]

    def list_of(self, instruction: str) -> list[str]:
        """The JSON list of an instruction that stands once."""
        (arguments,) = self.arguments(instruction)
        return [str(part) for part in json.loads(arguments)]

    def environment(self) -> dict[str, str]:
        return dict(part.split("=", 1) for line in self.arguments("ENV") for part in shlex.split(line))


def read_stages() -> dict[str, Stage]:
    """Every stage by name. An instruction that none of these tests knows is an error, not passed over."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    stage = None
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            base, _, label = arguments.partition(" AS ")
            stage = stages[label] = Stage(label, base)
        elif stage is not None:
            assert name in {"ARG", "RUN", "ENV", "COPY", "EXPOSE", "USER", "WORKDIR", "HEALTHCHECK", "ENTRYPOINT"}, line
            stage.instructions.append((name, arguments.strip()))
    return stages


def image_environment(image: str) -> dict[str, str]:
    """What ENV sets in a final image, its base stages included."""
    stages = read_stages()
    stage: Stage | None = stages[image]
    found: dict[str, str] = {}
    while stage is not None:
        found = stage.environment() | found
        stage = stages.get(stage.base)
    return found
