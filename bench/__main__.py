"""Run every benchmark and print its figures; ``python -m bench machine`` runs one."""

import importlib
import pkgutil
import sys

import bench


def main(names: list[str]) -> None:
    """Run the benchmarks named, or all."""
    known = sorted(
        module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__"
    )
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no benchmark called {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
