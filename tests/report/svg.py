"""Text of figures, read from their SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from matplotlib.figure import Figure

from dfml.report.figures import to_svg


def texts(figure: Figure) -> list[str]:
    """All text elements of a figure."""
    root = ET.fromstring(to_svg(figure))
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
