"""Images built and run without a container engine, for tests: as root on Debian, with buildah, mmdebstrap and iproute2.

The base is a Debian bootstrapped by mmdebstrap, which stands for ``debian:bookworm-slim``. Containers are processes in
the image's root, mounted read-only, with the image's user and environment, no capabilities and no way to new ones, in a
network of their own that has nothing but loopback.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.dockerfile import FOLDER, ROOT

NEEDED = ("buildah", "mmdebstrap", "ip", "unshare", "setpriv")
_BASE = "localhost/debian:bookworm-slim"
_AUTHORITIES = "/etc/host-authorities.crt"


def run(*command: object, environment: Mapping[str, str] | None = None) -> str:
    arguments = [str(part) for part in command]
    given = dict(os.environ) | dict(environment or {})
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False, env=given)
    assert finished.returncode == 0, f"{shlex.join(arguments)}\n{finished.stdout[-4000:]}{finished.stderr[-4000:]}"
    return finished.stdout


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its root folder and what its configuration says."""

    root: Path
    entry_point: tuple[str, ...]
    environment: dict[str, str]
    user: str
    working_folder: str
    probe: tuple[str, ...]
    """The command of HEALTHCHECK; empty without one."""


class Builder:
    """Builds images into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wheels = folder / "index"
        self._command = ("buildah", "--root", folder / "storage", "--runroot", folder / "run")

    def bootstrap(self) -> None:
        """Make the base."""
        archive = self._folder / "debian.tar"
        run("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", archive)
        container = self._buildah("from", "scratch").strip()
        self._buildah("add", container, archive, "/")
        if authorities := os.environ.get("PIP_CERT"):  # where a proxy signs what the package index sends
            self._buildah("copy", container, authorities, _AUTHORITIES)
            self._buildah("config", "--env", f"PIP_CERT={_AUTHORITIES}", container)
        self._buildah("commit", "--quiet", "--rm", container, _BASE)
        archive.unlink()

    def offer_torch(self, wheel: Path) -> None:
        """Make an index that holds this wheel alone, to stand for PyTorch's."""
        project = self._wheels / "torch"
        project.mkdir(parents=True)
        shutil.copy(wheel, project)
        (project / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>\n')

    def build(self, target: str) -> Image:
        """Build a target of the Dockerfile, and lay out its root."""
        arguments = ("--build-arg", f"BASE={_BASE}", "--build-arg", "TORCH_CPU_INDEX=file:///index")
        volumes = ("--volume", f"{self._wheels}:/index:ro") if self._wheels.exists() else ()
        self._buildah(
            *("build", "--quiet", "--layers", "--format", "docker", *arguments, *volumes, "--target", target),
            *("--file", FOLDER / "Dockerfile", "--tag", f"localhost/{target}", ROOT),
        )
        docker = json.loads(self._buildah("inspect", "--type", "image", f"localhost/{target}"))["Docker"]
        config = docker["config"]
        container = self._buildah("from", "--name", target, f"localhost/{target}").strip()
        root = Path(self._buildah("mount", container).strip())
        return Image(
            root=root,
            entry_point=tuple(config["Entrypoint"]),
            environment=dict(entry.split("=", 1) for entry in config["Env"]),
            user=config["User"],
            working_folder=config["WorkingDir"],
            probe=tuple(config.get("Healthcheck", {}).get("Test", ())[1:]),
        )

    def _buildah(self, *arguments: object) -> str:
        return run(*self._command, *arguments, environment={"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"})


@dataclass(slots=True)
class Container:
    """A way to run commands in an image. ``volumes``: folder of this machine -> folder of the container."""

    image: Image
    network: str
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[Path, str] = field(default_factory=dict)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """What runs these arguments inside."""
        root, (user, _, group) = self.image.root, self.image.user.partition(":")
        mounts = [f"mount --bind {root} {root}", f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp"]
        mounts += [f"mount --rbind {folder} {root}{folder}" for folder in ("/proc", "/dev")]
        mounts += [f"mount --bind {outside} {root}{inside}" for outside, inside in self.volumes.items()]
        mounts.append(f"mount -o remount,bind,ro {root}")
        given = self.image.environment | dict(self.environment)
        inside = ["chroot", str(root), "setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
        inside += ["--inh-caps=-all", "--bounding-set=-all", "env", "-i", "-C", self.image.working_folder]
        inside += [*(f"{name}={value}" for name, value in given.items()), *arguments]
        script = " && ".join([*mounts, f"exec {shlex.join(inside)}"])
        return ["ip", "netns", "exec", self.network, "unshare", "--mount", "sh", "-c", script]

    def run(self, *arguments: str) -> str:
        return run(*self.command(arguments))

    def enter(self, *arguments: str) -> str:
        """Run the image's own program with these arguments."""
        return self.run(*self.image.entry_point, *arguments)

    def refuses(self, *arguments: str) -> str:
        """What a command that must fail says."""
        finished = subprocess.run(self.command(arguments), capture_output=True, text=True, check=False)
        assert finished.returncode != 0, finished.stdout
        return finished.stderr

    @contextmanager
    def serving(self, log: Path) -> Iterator[None]:
        """The image's own program for the length of a block, ready by its own probe; it must end well on SIGTERM."""
        with log.open("ab") as output:
            process = subprocess.Popen(self.command(self.image.entry_point), stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(self.command(self.image.probe), capture_output=True, check=False).returncode:
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
            yield
            process.terminate()
            assert process.wait(60) == 0, log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait(10)


@contextmanager
def loopback_network(name: str) -> Iterator[str]:
    """A network namespace with nothing but loopback."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


def unmount_below(folder: Path) -> None:
    """Unmount what buildah mounted in its storage, the last first."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    for place in reversed(mounted):
        if Path(place).is_relative_to(folder):
            run("umount", place)
