"""Draws a result's ratios as bars (SVG): for each measure the cases, and a line at the base's ×1."""

from __future__ import annotations

from html import escape

from coding_agent_testbed.bench.result import Measure, Result

_WIDTH, _LABELS, _VALUES = 760, 250, 110
_BAR, _GAP, _HEADING = 16, 5, 30
_COLORS = ("#3b7dd8", "#d98032", "#4a9d5b", "#a05fb0", "#b8464f")
_TEXT = "#7a7a7a"
"""Legible on a light and on a dark page."""


def plot(title: str, result: Result) -> str:
    """The picture; empty if no case has a ratio."""
    parts: list[str] = []
    top = 10
    for measure in result.measures:
        bars = [
            (case.name, ratio, _COLORS[number % len(_COLORS)])
            for number, case in enumerate(result.cases)
            if (ratio := result.ratio(case, measure)) is not None
        ]
        if bars:
            top = _group(parts, top, measure, bars)
    if not parts:
        return ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
        f'font-family="sans-serif" font-size="13" fill="{_TEXT}">\n'
        f"<title>{escape(title)}</title>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _group(parts: list[str], top: int, measure: Measure, bars: list[tuple[str, float, str]]) -> int:
    """Draw a measure's bars from `top` on; where the next one begins."""
    longest = max(1.0, *(ratio for _, ratio, _ in bars))
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    parts.append(f'<text x="0" y="{top + 14}" font-weight="bold">{escape(measure.heading)}</text>')
    start = top = top + _HEADING - 8
    for name, ratio, color in bars:
        middle = top + _BAR - 4
        width = max(1.0, ratio * scale)
        parts.append(f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>')
        parts.append(f'<text x="{_LABELS + width + 6:.1f}" y="{middle}">×{ratio:.2f}</text>')
        top += _BAR + _GAP
    base = _LABELS + scale
    parts.append(
        f'<line x1="{base:.1f}" y1="{start - 3}" x2="{base:.1f}" y2="{top - 2}" '
        f'stroke="{_TEXT}" stroke-dasharray="3 3"/>'
    )
    return top + 12
