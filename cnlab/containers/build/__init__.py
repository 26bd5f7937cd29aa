"""Images from Dockerfiles: `build` runs the steps, and keeps what they came to."""

from cnlab.containers.build.builder import Build, Step, build
from cnlab.containers.build.cache import Cache
from cnlab.containers.build.errors import BuildError

__all__ = ["Build", "BuildError", "Cache", "Step", "build"]
