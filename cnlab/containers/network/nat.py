"""Address translation and filtering for a container network, by nftables or iptables.

Four things happen to packets. *Masquerade*: what leaves the subnet gets the host's address, for nobody
outside knows a way back to a private one. *Publish*: what comes for a published port of the host is sent to
the container. *Forward*: from outside only answers and published ports get in. *Loopback*: nothing from the
network may be for 127.0.0.0/8, which publishing at the host's loopback would otherwise open to it.

All is in a table, or in chains, of our own; loading and removing are one run of a program each.

See: nft(8), iptables-restore(8), iptables-extensions(8).
"""

import contextlib
import functools
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cnlab.containers.network.ports import ANY, PortMapping
from cnlab.errors import CnlabError, MissingFeature
from cnlab.host import find_program

_PROBE = "table ip cnlab-probe {\n chain c {\n type nat hook prerouting priority 0\n }\n}\n"


@dataclass(frozen=True, slots=True)
class Published:
    """A published port and the container that it leads to."""

    mapping: PortMapping
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Run:
    """A program with what it reads from standard input."""

    argv: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one network; `name` tells its table or chains from those of others."""

    name: str
    bridge: str
    subnet: IPv4Network
    published: tuple[Published, ...] = ()
    masquerade: bool = True  # what leaves gets the host's address
    isolate: bool = True  # from outside only answers and published ports get in
    internal: bool = False  # nothing leaves

    def apply(self, backend: str, *, replacing: bool = False) -> None:
        """Load the rules where the calling thread is; `replacing` those of this name that are loaded already.

        Raises:
            CnlabError: the program said no, and this is what it said; of new rules none is left behind.
        """
        try:
            run(self.loading(backend, replacing=replacing))
        except CnlabError:
            if backend == "iptables" and not replacing:
                for table in self._jumps():  # some tables may be loaded: only nftables takes all or nothing
                    with contextlib.suppress(CnlabError):
                        run(_iptables_restore(self._iptables_removal(table)))
            raise

    def remove(self, backend: str) -> None:
        """Take the rules away where the calling thread is; does nothing if they are not there."""
        if backend == "nft" or self._has_iptables_chains():
            run(self.removal(backend))

    def _has_iptables_chains(self) -> bool:
        listing = (str(find_program("iptables") or "iptables"), "-t", "nat", "-S", self._chain("publish"))
        return subprocess.run(listing, capture_output=True).returncode == 0

    def _chain(self, role: str) -> str:
        """Return the name of a chain of iptables, of at most 28 bytes."""
        return f"cnlab-{self.name}-{role}"

    @property
    def _hides(self) -> bool:
        return self.masquerade and not self.internal

    def loading(self, backend: str, *, replacing: bool = False) -> Run:
        """Return what loads the rules."""
        if backend == "nft":
            return _nft(self._nft_removal() + self.nft())
        return _iptables_restore(self.iptables(with_jumps=not replacing))

    def removal(self, backend: str) -> Run:
        """Return what removes the rules."""
        return _nft(self._nft_removal()) if backend == "nft" else _iptables_restore(self._iptables_removal())

    def nft(self) -> str:
        """Return the rules as a table of nftables."""
        chains = {
            "publish": self._dnat("{ip}{protocol} dport {port} dnat to {to}", "ip daddr {} "),
            "prerouting": ["type nat hook prerouting priority -100", "fib daddr type local jump publish"],
            "output": ["type nat hook output priority -100", "fib daddr type local jump publish"],
            "postrouting": [
                "type nat hook postrouting priority 100",
                *([f'ip saddr {self.subnet} oifname != "{self.bridge}" masquerade'] if self._hides else []),
                f'ip saddr 127.0.0.0/8 oifname "{self.bridge}" masquerade',
                f'ip saddr {self.subnet} oifname "{self.bridge}" ct status dnat masquerade',
            ],
            "forward": [
                "type filter hook forward priority 0",
                f'iifname "{self.bridge}" oifname "{self.bridge}" accept',
                f'oifname "{self.bridge}" ct state established,related accept',
                f'oifname "{self.bridge}" ct status dnat accept',
                *([f'oifname "{self.bridge}" drop'] if self.isolate else []),
                *([f'iifname "{self.bridge}" drop'] if self.internal else []),
            ],
            "loopback": [
                "type filter hook prerouting priority -300",
                f'iifname "{self.bridge}" ip daddr 127.0.0.0/8 drop',
            ],
        }
        body = "".join(
            f"  chain {name} {{\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"
            for name, rules in chains.items()
        )
        return f"table ip cnlab-{self.name} {{\n{body}}}\n"

    def _nft_removal(self) -> str:
        """Make the table before it is deleted: that it is not there is no error then."""
        return f"table ip cnlab-{self.name}\ndelete table ip cnlab-{self.name}\n"

    def iptables(self, *, with_jumps: bool = True) -> str:
        """Return the rules for ``iptables-restore --noflush``; `with_jumps` from the kernel's own chains."""
        lines = []
        for table in ("raw", "nat", "filter"):
            chains, jumps = self._chains().get(table, {}), self._jumps()[table] if with_jumps else []
            if chains or jumps:
                lines.append(f"*{table}")
                lines += [f":{chain} - [0:0]" for chain in chains]
                lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
                lines += [f"{where} {rule}" for where, rule in jumps]
                lines.append("COMMIT")
        return "\n".join(lines) + "\n"

    def _iptables_removal(self, *tables: str) -> str:
        lines = []
        for table in tables or self._jumps():
            chains = self._chains().get(table, {})
            lines.append(f"*{table}")
            lines += [f"-D {rule}" for _, rule in self._jumps()[table]]
            lines += [f"{verb} {chain}" for verb in ("-F", "-X") for chain in chains]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"

    def _chains(self) -> dict[str, dict[str, list[str]]]:
        """Return our own chains by table."""
        subnet, bridge = self.subnet, self.bridge
        dnat = "{ip}-p {protocol} -m {protocol} --dport {port} -j DNAT --to-destination {to}"
        outward = [f"-s {subnet} ! -o {bridge} -j MASQUERADE"] if self._hides else []
        return {
            "nat": {
                self._chain("publish"): self._dnat(dnat, "-d {} "),
                self._chain("source"): [
                    *outward,
                    f"-s 127.0.0.0/8 -o {bridge} -j MASQUERADE",
                    f"-s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE",
                ],
            },
            "filter": {
                self._chain("inward"): [
                    f"-i {bridge} -j ACCEPT",
                    "-m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT",
                    f"-j {'DROP' if self.isolate else 'ACCEPT'}",
                ]
            },
        }

    def _jumps(self) -> dict[str, list[tuple[str, str]]]:
        """Return by table what leads from the kernel's chains to ours, or decides there.

        What goes outward is accepted last, where another network's chain has let it pass, and explicitly:
        Docker, for one, makes the policy of FORWARD to drop.
        """
        outward = "DROP" if self.internal else "ACCEPT"
        to_here = "-m addrtype --dst-type LOCAL"
        return {
            "raw": [("-I", f"PREROUTING -i {self.bridge} -d 127.0.0.0/8 -j DROP")],
            "nat": [
                ("-I", f"PREROUTING {to_here} -j {self._chain('publish')}"),
                ("-I", f"OUTPUT {to_here} -j {self._chain('publish')}"),
                ("-I", f"POSTROUTING -j {self._chain('source')}"),
            ],
            "filter": [
                ("-I", f"FORWARD -o {self.bridge} -j {self._chain('inward')}"),
                ("-A", f"FORWARD -i {self.bridge} ! -o {self.bridge} -j {outward}"),
            ],
        }

    def _dnat(self, template: str, destination: str) -> list[str]:
        return [
            template.format(
                ip="" if one.mapping.host_ip == ANY else destination.format(one.mapping.host_ip),
                protocol=one.mapping.protocol,
                port=one.mapping.host_port,
                to=f"{one.address}:{one.mapping.container_port}",
            )
            for one in self.published
        ]


def backend() -> str:
    """Return "nft" or "iptables": what this kernel has, and this machine a program for.

    Where iptables drops what is forwarded, as Docker makes it do, only a rule beside it can accept; so
    there it is iptables.

    Raises:
        MissingFeature: neither program is installed.
    """
    if has_nftables() and not _iptables_drops():
        return "nft"
    if find_program("iptables-restore"):
        return "iptables"
    hint = "install the Debian package nftables or iptables"
    raise MissingFeature("nat", "no program nft that works here, and no iptables-restore", hint=hint)


@functools.cache
def has_nftables() -> bool:
    """Whether nftables can translate IPv4 addresses here; found out by a rehearsal.

    User-Mode Linux has nftables, but not for IPv4.
    """
    if find_program("nft") is None:
        return False
    command = [*_nft("").argv, "--check"]
    return subprocess.run(command, input=_PROBE, text=True, capture_output=True).returncode == 0


def _iptables_drops() -> bool:
    program = find_program("iptables")
    if program is None:
        return False
    listed = subprocess.run([program, "-S", "FORWARD"], text=True, capture_output=True)
    return listed.stdout.startswith("-P FORWARD DROP")


def _nft(text: str) -> Run:
    return Run((str(find_program("nft") or "nft"), "-f", "-"), text)


def _iptables_restore(text: str) -> Run:
    return Run((str(find_program("iptables-restore") or "iptables-restore"), "--noflush", "--wait"), text)


def run(one: Run) -> None:
    """Run the program in the network namespace of the calling thread.

    Raises:
        CnlabError: it failed; the message is what it said.
    """
    done = subprocess.run(one.argv, input=one.text, text=True, capture_output=True)
    if done.returncode != 0:
        raise CnlabError(f"{' '.join(one.argv)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
