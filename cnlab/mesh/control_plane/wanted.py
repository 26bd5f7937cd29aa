"""What the control plane was asked for last; not in `control_plane`, for that runs as ``__main__``."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from cnlab.mesh.configuration import GATEWAY, Configuration, Workload
from cnlab.mesh.mixer.quota import Limit
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import Json


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for last: the configuration, and which instances there are."""

    configuration: Configuration
    workloads: tuple[Workload, ...]

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        """Read the body of ``PUT /config``."""
        workloads = tuple(Workload(**one) for one in data["workloads"])
        return cls(Configuration.from_dict(data["configuration"]), workloads)

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """The instances that may get requests."""
        for one in self.workloads:
            if one.is_ready:
                labels = {"version": one.version}
                yield Endpoint(one.service, one.address, self.configuration.port, labels)

    @property
    def services(self) -> dict[str, str]:
        """The service of each node, which is its identity."""
        return {one.name: one.service for one in self.workloads} | {GATEWAY: GATEWAY}

    @property
    def rego(self) -> dict[str, str]:
        """The policies by service."""
        return {name: one.rego for name, one in self.configuration.settings.items() if one.rego}

    @property
    def limits(self) -> dict[str, Limit]:
        """The rate limits by service."""
        settings = self.configuration.settings.items()
        return {name: Limit(**one.rate_limit) for name, one in settings if one.rate_limit}
