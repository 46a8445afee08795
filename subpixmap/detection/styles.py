"""How QGIS draws and edits the two layers of a review: cells by status with a list to choose from, objects as rings."""

from __future__ import annotations

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_COLOURS = {"": "136,136,136", "accept": "0,114,178", "correct": "230,159,0", "reject": "213,94,0"}
"""By status; told apart also by the colour-blind (Okabe and Ito 2008)."""


def _outline(name: int, colour: str) -> str:
    return (
        f'<symbol type="fill" name="{name}"><layer class="SimpleFill"><Option type="Map">'
        f'<Option name="style" type="QString" value="no"/>'
        f'<Option name="outline_color" type="QString" value="{colour},255"/>'
        f'<Option name="outline_width" type="QString" value="0.8"/></Option></layer></symbol>'
    )


def _cells() -> str:
    categories = "".join(
        f'<category value="{status}" symbol="{k}" label="{status or "not reviewed"}" render="true"/>'
        for k, status in enumerate(_COLOURS)
    )
    symbols = "".join(_outline(k, colour) for k, colour in enumerate(_COLOURS.values()))
    choices = "".join(
        f'<Option type="Map"><Option name="{status}" type="QString" value="{status}"/></Option>'
        for status in _COLOURS
        if status
    )
    return (
        f'{_HEAD}<qgis version="3.34" styleCategories="Symbology|Forms">'
        f'<renderer-v2 type="categorizedSymbol" attr="status"><categories>{categories}</categories>'
        f"<symbols>{symbols}</symbols></renderer-v2>"
        f'<fieldConfiguration><field name="status"><editWidget type="ValueMap"><config><Option type="Map">'
        f'<Option name="map" type="List">{choices}</Option></Option></config></editWidget></field>'
        "</fieldConfiguration></qgis>\n"
    )


CELLS_STYLE = _cells()
OBJECTS_STYLE = (
    f'{_HEAD}<qgis version="3.34" styleCategories="Symbology"><renderer-v2 type="singleSymbol"><symbols>'
    '<symbol type="marker" name="0"><layer class="SimpleMarker"><Option type="Map">'
    '<Option name="name" type="QString" value="circle"/><Option name="color" type="QString" value="0,0,0,0"/>'
    '<Option name="outline_color" type="QString" value="240,228,66,255"/>'
    '<Option name="outline_width" type="QString" value="0.4"/><Option name="size" type="QString" value="3"/>'
    "</Option></layer></symbol></symbols></renderer-v2></qgis>\n"
)
