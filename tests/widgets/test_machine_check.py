"""The table of what the machine allows."""

from cnlab.host import Feature
from cnlab.widgets.machine_check import feature_table

TABLE = feature_table(
    [
        Feature("root", True, "user id 0"),
        Feature("timens", False, "no <time> namespace", "take another kernel"),
    ]
)


def test_missing_feature_shows_its_reason_and_what_to_do():
    """A dash alone would leave the reader helpless."""
    assert "no &lt;time&gt; namespace<br><em>take another kernel</em>" in TABLE.as_html()


def test_text_form_says_the_same():
    """A terminal shows the same facts."""
    assert "✓ root    user id 0\n✗ timens  no <time> namespace (hint: take another kernel)" == TABLE.as_text()
