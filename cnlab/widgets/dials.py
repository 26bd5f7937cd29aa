"""Dials that change something real, and the picture of what comes of it.

Interface: ``Dials(turn, {"retries": [0, 1, 3], …}, start={"retries": 1})`` as the last value of a cell.
`turn` gets the values of all dials, does what they say, and returns a picture; it is called once for the
still form, and again whenever the reader moves a dial.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnlab.errors import CnlabError, InvalidValue
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import Picture

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

_STATIC_NOTE = "In a running notebook, dials change these: {}."


class Dials:
    """What comes of the values that the dials stand at.

    Args:
        turn: does what the values say, given in the order of the dials, and draws what comes of it.
        choices: by the name of each dial, the values it can stand at, in the order of its scale.
        start: by the name of a dial, where it begins if that is not the first of its values.
    """

    def __init__(
        self,
        turn: Callable[..., Picture],
        choices: Mapping[str, Sequence[object]],
        *,
        start: Mapping[str, object] | None = None,
    ) -> None:
        if not choices or not all(choices.values()):
            raise InvalidValue(f"dials {list(choices)}: each needs a value to stand at")
        self._turn = turn
        self._choices = {name: list(values) for name, values in choices.items()}
        self.values = {name: values[0] for name, values in self._choices.items()}
        self.set(**start or {})

    def set(self, **values: object) -> None:
        """Turn dials, by name, and do what all of them say then.

        Raises:
            InvalidValue: a dial cannot stand there.
        """
        for name, value in values.items():
            if value not in self._choices.get(name, []):
                raise InvalidValue(f"dial {name!r}: {value!r} is not among {self._choices.get(name)}")
        self.values |= values
        self.picture: Picture = self._turn(*self.values.values())

    def _words(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items())

    def __repr__(self) -> str:
        return f"With {self._words()}: {self.picture.alt}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        note = _STATIC_NOTE.format(", ".join(self._choices))
        words = f"<p>With {html.escape(self._words())}:</p>"
        static = f"{words}{picture_to_html(self.picture)}<p>{html.escape(note)}</p>"
        return mimebundle(self._live(), static_html=static, text=repr(self))

    def _live(self) -> DOMWidget:
        import ipywidgets as widgets

        image = widgets.Image(value=self.picture.png(), width=self.picture.width_px)
        message = widgets.Label()
        dials = {
            name: widgets.SelectionSlider(
                options=values,
                value=self.values[name],
                description=name,
                continuous_update=False,
                style={"description_width": "12em"},
                layout=widgets.Layout(width="32em"),
            )
            for name, values in self._choices.items()
        }

        def change(_change: object) -> None:
            message.value = "…"
            try:
                self.set(**{name: dial.value for name, dial in dials.items()})
            except (CnlabError, OSError) as error:  # what the dials are about may be gone
                message.value = str(error)
                return
            message.value = ""
            image.value, image.width = self.picture.png(), str(self.picture.width_px)

        for dial in dials.values():
            dial.observe(change, names="value")
        return widgets.VBox([*dials.values(), message, image])
