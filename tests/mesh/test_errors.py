"""What is said when a proxy refuses: one line that ends with the reason."""

import pytest

from cnlab.mesh.errors import Rejected

DUMP = 'goo.gle/debugonly   \nname: "outbound"\nvirtual_hosts {\n  name: "reviews"\n}\n'
CHAIN = (
    "RouteConfigurationValidationError.VirtualHosts[2]: embedded message failed validation"
    " | caused by VirtualHostValidationError.Routes[0]: embedded message failed validation"
    " | caused by RetryBackOffValidationError.BaseInterval: value must be greater than 0s"
)
STATUS = "FaultAbortValidationError.HttpStatus: value must be inside range [200, 600)"
VALUE = f"{DUMP}: Proto constraint validation failed ({CHAIN})"
RANGE = f"{DUMP}: Proto constraint validation failed ({STATUS})"
SAID = {
    "a dump and a chain": (VALUE, "RetryBackOffValidationError.BaseInterval: value must be greater than 0s"),
    "parentheses in the reason": (RANGE, STATUS),
    "a dump and no chain": (f"{DUMP}: unknown cluster 'x'", "unknown cluster 'x'"),
    "two resources": (f"{VALUE}\n{RANGE}", STATUS),
    "nothing but the reason": ("missing ): /(unclosed", "missing ): /(unclosed"),
}


@pytest.mark.parametrize("case", SAID)
def test_refusal_shows_the_reason_and_keeps_all_words(case):
    """Envoy puts up to three thousand characters before the one sentence that helps."""
    words, reason = SAID[case]
    refusal = Rejected("productpage-v1-0", "RDS", words, cause="route(reviews)")

    assert f"route(reviews): Envoy of productpage-v1-0 refused the RDS update: {reason}" == str(refusal)
    assert (words, reason) == (refusal.words, refusal.reason)
