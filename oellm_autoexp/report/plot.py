"""A metric's curves of all jobs as one picture; as SVG without any library. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from oellm_autoexp.core.redaction import redact
from oellm_autoexp.core.text import printable
from oellm_autoexp.report.curves import token_counts
from oellm_autoexp.report.document import Source
from oellm_autoexp.report.numbers import extremes

Axis = Literal["iteration", "time", "tokens"]
AXES: tuple[Axis, ...] = ("iteration", "time", "tokens")
"""`time`: hours since the first point of the job."""
_LABELS: dict[Axis, str] = {"iteration": "iteration", "time": "hours since the first point", "tokens": "tokens"}
COLOURS = (
    *("#0969c7", "#d2601a", "#1a7f4b", "#c62839", "#7b3fb5"),
    *("#8a5a2b", "#c13d94", "#5a6673", "#948400", "#008a96"),
)
_MOST_POINTS, _MOST_NAMED = 1000, 20
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 520, 76, 24, 40, 56
_LINE = 16
_LARGEST = 1e200


@dataclass(frozen=True)
class Line:
    """One job's curve. What is no number, or too large for the scale of an axis (1e200), is a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ys", [y if abs(y) <= _LARGEST else math.nan for y in self.ys])


@dataclass(frozen=True)
class Plot:
    """The picture of one metric."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_y: bool = False


def plot_of(sources: Sequence[Source], metric: str, axis: Axis, *, log_y: bool) -> Plot:
    """The picture of a metric of sessions; jobs that have no such points are left out."""
    lines = tuple(line for source in sources for line in _lines(source, metric, axis, several=len(sources) > 1))
    title = ", ".join(dict.fromkeys(source.manifest.plan_id for source in sources))
    return Plot(title, _LABELS[axis], metric.replace("_", " "), lines, log_y)


def _lines(source: Source, metric: str, axis: Axis, *, several: bool) -> Iterator[Line]:
    if source.session is None:
        return
    for spec in source.manifest.jobs:
        current = {name: each.current() for name, each in source.series(source.session.jobs[spec.name]).items()}
        if (series := current.get(metric)) is None:
            continue
        kept = extremes(series.values, _MOST_POINTS)
        xs: Sequence[float] = [series.iterations[index] for index in kept]
        if axis == "time":
            xs = [(series.times[index] - series.times[0]) / 3600 for index in kept]
        elif axis == "tokens":
            if (known := token_counts(spec, current)) is None:
                continue
            counts = dict(zip(*known, strict=True))
            kept = [index for index in kept if series.iterations[index] in counts]
            xs = [counts[series.iterations[index]] for index in kept]
        name = f"{source.manifest.plan_id}: {spec.name}" if several else spec.name
        yield Line(redact(name), xs, [series.values[index] for index in kept])


def as_svg(plot: Plot) -> str:
    """The picture as an SVG document."""
    finite = [
        (x, y)
        for line in plot.lines
        for x, y in zip(line.xs, line.ys, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not plot.log_y)
    ]
    xs = _Scale.over((x for x, _ in finite), _LEFT, _WIDTH - _RIGHT)
    ys = _Scale.over((y for _, y in finite), _HEIGHT - _BOTTOM, _TOP, logarithmic=plot.log_y)
    named = plot.lines if len(plot.lines) <= _MOST_NAMED else ()
    height = _HEIGHT + _LINE * len(named)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{_text(f'{plot.y_label} of {plot.title}')}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="600">{_text(plot.title)}</text>',
        *_axes(plot, xs, ys),
        *(_path(number, line, xs, ys) for number, line in enumerate(plot.lines)),
        *(_named(number, line) for number, line in enumerate(named)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _text(text: str) -> str:
    return escape(printable(text.encode(errors="replace").decode()))


@dataclass(frozen=True)
class _Scale:
    """From values to places in the picture."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, logarithmic: bool = False) -> _Scale:
        known = sorted(values)
        low, high = (known[0], known[-1]) if known else (1.0, 2.0)
        if low == high:
            low, high = (low / 2, high * 2) if logarithmic else (low - 0.5, high + 0.5)
        return cls(low, high, start, end, logarithmic)

    def __call__(self, value: float) -> float:
        low, high, at = (
            (map(math.log10, (self.low, self.high, value)))
            if self.logarithmic
            else (
                self.low,
                self.high,
                value,
            )
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def has(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.logarithmic)

    def ticks(self) -> list[float]:
        if self.logarithmic and self.high / self.low >= 10:
            return [
                10.0**power for power in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            ]
        rough = (self.high - self.low) / 6
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _axes(plot: Plot, xs: _Scale, ys: _Scale) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in xs.ticks():
        at = f"{xs(value):.1f}"
        yield f'<line x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}" stroke="#e3e8ee"/>'
        yield f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{value:.6g}</text>'
    for value in ys.ticks():
        at = f"{ys(value):.1f}"
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}" stroke="#e3e8ee"/>'
        yield f'<text x="{_LEFT - 8}" y="{float(at) + 4:.1f}" text-anchor="end">{value:.6g}</text>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">{_text(plot.x_label)}</text>'
    across = (_TOP + bottom) / 2
    turned = f'transform="rotate(-90 16 {across})"'
    yield f'<text x="16" y="{across}" text-anchor="middle" {turned}>{_text(plot.y_label)}</text>'


def _path(number: int, line: Line, xs: _Scale, ys: _Scale) -> str:
    words, pen = [], "M"
    for x, y in zip(line.xs, line.ys, strict=True):
        if not (xs.has(x) and ys.has(y)):
            pen = "M"
            continue
        words.append(f"{pen}{xs(x):.1f} {ys(y):.1f}")
        pen = "L"
    colour = COLOURS[number % len(COLOURS)]
    shape = f'<path d="{"".join(words)}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linejoin="round">'
    return f"{shape}<title>{_text(line.name)}</title></path>"


def _named(number: int, line: Line) -> str:
    y = _HEIGHT + _LINE * number
    colour = COLOURS[number % len(COLOURS)]
    return (
        f'<rect x="{_LEFT}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
        f'<text x="{_LEFT + 16}" y="{y}">{_text(line.name)}</text>'
    )
