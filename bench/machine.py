"""The private kernel beside a plain ipykernel: start, restart, round trip, throughput and memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jupyter_client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from cnlab.machine.provisioner import PrivateKernelProvisioner, SpareMachines

ROUNDS = 5
ROUND_TRIPS = 100
PAYLOAD_BYTES = 20_000_000
SPARE_BOOT_S = 6.0  # how long a reader looks at the page before the next start

ECHO = """
import comm
def opened(channel, message):
    @channel.on_msg
    def answer(message):
        if message['buffers']:
            channel.send('received')
        else:
            channel.send('payload', buffers=[bytes(message['content']['data'])])
comm.get_comm_manager().register_target('bench', opened)
"""


class Kernel:
    """A kernel and its client in the directory `work`."""

    def __init__(self, name: str, work: str) -> None:
        self.manager = KernelManager(kernel_name=name)
        self.work = work

    def start(self) -> float:
        """Start it and run the first cell; return the seconds until that was done."""
        started = time.monotonic()
        self.manager.start_kernel(cwd=self.work)
        return self._first_cell(started)

    def restart(self) -> float:
        """Restart it and run the first cell; return the seconds until that was done."""
        started = time.monotonic()
        self.manager.restart_kernel()
        return self._first_cell(started)

    def _first_cell(self, started: float) -> float:
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run("1 + 1")
        return time.monotonic() - started

    def run(self, code: str) -> None:
        """Run a cell to its end."""
        self.client.execute_interactive(code, silent=False, output_hook=lambda message: None)

    def shutdown(self) -> None:
        """End the kernel and its client."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def round_trip_s(self) -> float:
        """The median time of a cell that does nothing."""
        times = []
        for _ in range(ROUND_TRIPS):
            started = time.monotonic()
            self.run("pass")
            times.append(time.monotonic() - started)
        return statistics.median(times)

    def throughput(self) -> tuple[float, float]:
        """Bytes a second into the kernel and out of it, as binary buffers of a widget's channel."""
        self.run(ECHO)
        session, shell = self.client.session, self.client.shell_channel.socket
        session.send(shell, "comm_open", {"comm_id": "bench", "target_name": "bench", "data": {}})

        def exchange(data: object, buffers: list[bytes]) -> float:
            started = time.monotonic()
            session.send(shell, "comm_msg", {"comm_id": "bench", "data": data}, buffers=buffers)
            while self.client.get_iopub_msg(timeout=60)["msg_type"] != "comm_msg":
                pass
            return time.monotonic() - started

        idle = statistics.median(exchange(0, []) for _ in range(20))
        into = statistics.median(exchange(0, [bytes(PAYLOAD_BYTES)]) for _ in range(ROUNDS)) - idle
        out = statistics.median(exchange(PAYLOAD_BYTES, []) for _ in range(ROUNDS)) - idle
        return PAYLOAD_BYTES / into, PAYLOAD_BYTES / out

    def memory_bytes(self) -> int:
        """What all processes of the kernel take of the host's memory; shared pages count by their share."""
        pids = [self.manager.provisioner.pid]
        for pid in pids:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return sum(_pss_bytes(pid) for pid in pids)


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as work:
        _starts(work)
        _running(work)
    _import()


def _starts(work: str) -> None:
    spares = SpareMachines.instance()
    measured: dict[str, list[float]] = {
        "plain": [],
        "plain restart": [],
        "cold": [],
        "spare": [],
        "restart": [],
    }
    for _ in range(ROUNDS):
        kernel = Kernel("python3", work)
        measured["plain"].append(kernel.start())
        measured["plain restart"].append(kernel.restart())
        kernel.shutdown()
        spares.limit = 0
        _measure(work, measured["cold"], Kernel.start)
        spares.limit = 1
        kernel = Kernel("cnlab", work)
        with_spare = _when_spare_is_ready(spares, work)
        with_spare()
        measured["spare"].append(kernel.start())
        with_spare()
        measured["restart"].append(kernel.restart())
        kernel.shutdown()
        spares.close()
    plain, plain_restart = statistics.median(measured["plain"]), statistics.median(measured["plain restart"])
    print(f"launch to first cell, plain ipykernel            {plain:6.2f} s")
    for name, peer in (("cold", plain), ("spare", plain), ("restart", plain_restart)):
        seconds = statistics.median(measured[name])
        words = {"cold": "no spare", "spare": "spare booted", "restart": "restart, spare booted"}[name]
        print(f"  private kernel, {words:31}  {seconds:6.2f} s  {seconds / peer:5.2f} x plain")


def _measure(work: str, times: list[float], action: Callable[[Kernel], float]) -> None:
    kernel = Kernel("cnlab", work)
    times.append(action(kernel))
    kernel.shutdown()


def _when_spare_is_ready(spares: SpareMachines, work: str) -> Callable[[], None]:
    def wait() -> None:
        spares.refill((str(Path(work).resolve()), PrivateKernelProvisioner.memory_mib.default_value))
        time.sleep(SPARE_BOOT_S)

    return wait


def _running(work: str) -> None:
    results = {}
    for name in ("python3", "cnlab"):
        kernel = Kernel(name, work)
        kernel.start()
        time.sleep(2)
        memory = kernel.memory_bytes()
        results[name] = (kernel.round_trip_s(), *kernel.throughput(), memory)
        kernel.shutdown()
    (plain_trip, plain_in, plain_out, plain_memory), (trip, into, out, memory) = results.values()
    print(f"round trip of a cell      plain {plain_trip * 1e3:6.1f} ms  private {trip * 1e3:6.1f} ms", end="")
    print(f"  added {(trip - plain_trip) * 1e3:.1f} ms")
    for words, peer, ours in (("into the kernel", plain_in, into), ("out of the kernel", plain_out, out)):
        rates = f"plain {peer / 1e6:6.0f} MB/s  private {ours / 1e6:6.0f} MB/s"
        print(f"{words:25} {rates}  {ours / peer:.2f} x plain")
    print(
        f"memory of an idle kernel  plain {plain_memory / 1e6:6.0f} MB  private {memory / 1e6:6.0f} MB",
        end="",
    )
    print(f"  {memory / plain_memory:.2f} x plain")


def _import() -> None:
    bare, imported = (_python_s("pass"), _python_s("import cnlab"))
    print(f"import cnlab              {(imported - bare) * 1e3:.1f} ms above a bare Python")


def _python_s(code: str) -> float:
    times = []
    for _ in range(20):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.monotonic() - started)
    return statistics.median(times)
