"""Prometheus' own judge: ``promtool`` checks configurations, rules and expositions.

See: promtool(1); Prometheus, "Unit testing for rules".
"""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnlab import host
from cnlab.errors import MissingFeature
from cnlab.mesh.errors import MeshError

_HINT = "install the Debian package prometheus; or use cnlab.mesh.observability.scraper, which needs nothing"
_TIMEOUT_S = 30.0


def find(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``.

    Raises:
        MissingFeature: this machine has none.
    """
    path = host.find_program(name)
    if path is None:
        raise MissingFeature(name, "no such program", hint=_HINT)
    return str(path)


def check_config(path: Path) -> str:
    """Check a ``prometheus.yml`` and the rule files that it names; return promtool's words.

    Raises:
        MeshError: promtool refuses it; the message has its words.
    """
    return _run("check", "config", str(path))


def check_metrics(exposition: str) -> str:
    """Check an exposition in Prometheus' text format, and lint its names.

    Raises:
        MeshError: promtool cannot read it, or finds a name bad.
    """
    return _run("check", "metrics", stdin=exposition)


def check_rules(rules: Mapping[str, Any], tests: list[dict[str, Any]], *, interval: str = "1s") -> str:
    """Evaluate rules over invented series and compare; return promtool's words.

    Args:
        rules: the content of a rule file.
        tests: promtool's ``tests``: ``input_series``, ``alert_rule_test``, ``promql_expr_test``.
        interval: how often rules are evaluated.

    Raises:
        MeshError: a result is another than expected; the message shows both.
    """
    import yaml

    with tempfile.TemporaryDirectory(prefix="cnlab-promtool-") as directory:
        file, rule_file = Path(directory, "tests.yml"), Path(directory, "rules.yml")
        rule_file.write_text(yaml.safe_dump(dict(rules)))
        content = {"rule_files": [str(rule_file)], "evaluation_interval": interval, "tests": tests}
        file.write_text(yaml.safe_dump(content))
        return _run("test", "rules", str(file))


def _run(*arguments: str, stdin: str = "") -> str:
    result = subprocess.run(
        [find("promtool"), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    said = f"{result.stdout}{result.stderr}".strip()
    if result.returncode:
        raise MeshError(f"promtool {' '.join(arguments[:2])}: {said}")
    return said
