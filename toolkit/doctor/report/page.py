"""HTML report of an examination: one self-contained page, images embedded, no script."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime import load_image
from edgeclf.runtime.errors import EdgeclfError, command_line
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.preprocess import resize
from edgeclf.toolkit.console import printable
from edgeclf.toolkit.doctor.facts import DataFacts
from edgeclf.toolkit.doctor.findings import CAUSES, SEVERITIES, Finding
from edgeclf.toolkit.doctor.remedies import COMMAND
from edgeclf.toolkit.doctor.report.terminal import scope_text, value_text

if TYPE_CHECKING:
    from edgeclf.toolkit.doctor.examination import Examination

# Most images per finding, groups per finding and images per group; an embedded image takes about 6 KB.
_MOST_IMAGES, _MOST_GROUPS, _MOST_IN_GROUP = 24, 12, 6
# Longer side of an embedded image in pixels: sharp on screens with twice the density.
_IMAGE_SIDE = 240
_QUALITY = 80
_CODE = re.compile(r"`([^`]+)`")

_STYLE = """
:root { color-scheme: light dark; --text: #1d2127; --dim: #5c6570; --page: #f6f7f9; --card: #ffffff; --line: #d9dee5;
  --problem: #b3261e; --warning: #8a5a00; --note: #1b5e9b; --code: #eef1f5; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --dim: #9aa5b1; --page: #14171b; --card: #1e2329;
  --line: #363d46; --problem: #ff8a80; --warning: #f2c063; --note: #82b8f0; --code: #2a3038; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.35rem; line-height: 1.4; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; }
.dim { color: var(--dim); font-size: .9rem; }
article { background: var(--card); border: 1px solid var(--line); border-left: .35rem solid var(--colour);
  border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
.problem { --colour: var(--problem); } .warning { --colour: var(--warning); } .note { --colour: var(--note); }
.severity { color: var(--colour); font-weight: 700; text-transform: uppercase; font-size: .8rem; letter-spacing: .04em; }
.fix { border-top: 1px solid var(--line); margin-top: .8rem; padding-top: .6rem; }
code { background: var(--code); padding: .1rem .3rem; border-radius: .25rem; font-size: .9em; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
td { padding: .15rem .8rem .15rem 0; vertical-align: top; } td:first-child { color: var(--dim); white-space: nowrap; }
nav a { color: var(--colour); text-decoration: none; margin-right: 1rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; margin-top: .75rem; }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: .75rem;
  margin-top: .75rem; }
.group { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
.group.several { grid-column: 1 / -1; }
.group .pictures { margin-top: 0; } .pair .pictures { grid-template-columns: 1fr 1fr; }
figure { margin: 0; font-size: .75rem; line-height: 1.3; }
figure img, figure .none { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--code);
  border-radius: .3rem; display: block; }
figure .none { display: grid; place-items: center; color: var(--dim); }
ul { margin: .5rem 0; padding-left: 1.2rem; font-size: .9rem; } li span { color: var(--dim); }
figcaption { margin-top: .2rem; } figcaption span { color: var(--dim); display: block; }
"""


def page(examination: "Examination") -> str:
    """The HTML report as text.

    Args:
        examination: The examination.
    """
    images = _EmbeddedImages(examination.facts.data)
    ordered = [(number, finding) for number, finding in enumerate(examination.findings, 1)]
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>edgeclf doctor: {_text(examination.subject)}</title>",
        f"<style>{_STYLE}</style></head><body><main>",
        f"<h1>{_with_code(examination.summary)}</h1>",
        f'<p class="dim">{_text(scope_text(examination))}</p>',
        _contents(ordered),
        *(_article(number, finding, images) for number, finding in ordered),
        f'<p class="dim">{_text(command_line("doctor", Path(examination.subject)))}. Checks: {_text(", ".join(examination.checks))}.</p>',
        "</main></body></html>",
    ]
    return "\n".join(lines) + "\n"


class _EmbeddedImages:
    """Images of the data set as data URLs, each encoded once."""

    def __init__(self, data: DataFacts | None) -> None:
        self._root = data.root if data is not None else None
        self._urls: dict[str, str | None] = {}

    def url(self, path: str) -> str | None:
        """Data URL of an image; None where it cannot be read."""
        if path not in self._urls:
            self._urls[path] = None if self._root is None else _data_url(self._root / path)
        return self._urls[path]


def _data_url(path: Path) -> str | None:
    try:
        if not path.is_file():
            return None
        image_bgr = load_image(path)
    except (EdgeclfError, OSError):
        return None
    height, width = image_bgr.shape[:2]
    scale = min(1.0, _IMAGE_SIDE / max(height, width))
    small = resize(image_bgr, (max(1, round(height * scale)), max(1, round(width * scale))))
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}" if done else None


def _contents(findings: Sequence[tuple[int, Finding]]) -> str:
    links = []
    for severity in SEVERITIES:
        numbers = [number for number, finding in findings if finding.severity == severity]
        if numbers:
            plural = "" if len(numbers) == 1 else "s"
            links.append(f'<a class="{severity}" href="#finding-{numbers[0]}">{len(numbers)} {severity}{plural}</a>')
    return f"<nav>{''.join(links)}</nav>" if links else ""


def _article(number: int, finding: Finding, images: _EmbeddedImages) -> str:
    rows = "".join(
        f"<tr><td>{_text(key.replace('_', ' '))}</td><td>{_text(value_text(value, 24))}</td></tr>"
        for key, value in finding.evidence.items()
    )
    return "\n".join(
        [
            f'<article class="{finding.severity}" id="finding-{number}">',
            f'<p class="severity">{finding.severity} · {_text(finding.cause)}</p>',
            f"<h2>{_with_code(finding.title)}</h2>",
            f'<p class="dim">{_text(CAUSES[finding.cause])}</p>',
            f"<table>{rows}</table>" if rows else "",
            _groups(finding, images) if finding.groups else _items(finding, images),
            f'<p class="fix">{_with_code(finding.fix)}</p>',
            "</article>",
        ]
    )


def _items(finding: Finding, images: _EmbeddedImages) -> str:
    if not finding.items:
        return ""
    details = finding.details or ("",) * len(finding.items)
    shown = list(zip(finding.items, details, strict=True))[:_MOST_IMAGES]
    if not any(images.url(path) for path, _ in shown):
        lines = "".join(f"<li>{_text(path)} <span>{_text(detail)}</span></li>" for path, detail in shown)
        return f"<ul>{lines}</ul>" + _more(len(finding.items) - len(shown), "files")
    return _grid([_figure(path, detail, images) for path, detail in shown]) + _more(
        len(finding.items) - len(shown), "images"
    )


def _groups(finding: Finding, images: _EmbeddedImages) -> str:
    details = dict(zip(finding.items, finding.details, strict=False))
    boxes = [
        f'<div class="group {"pair" if len(group) == 2 else "several"}">{_grid([_figure(path, details.get(path, ""), images) for path in group[:_MOST_IN_GROUP]])}'
        f"{_more(len(group) - _MOST_IN_GROUP, 'images')}</div>"
        for group in finding.groups[:_MOST_GROUPS]
    ]
    return f'<div class="groups">{"".join(boxes)}</div>' + _more(len(finding.groups) - _MOST_GROUPS, "groups")


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="pictures">{"".join(figures)}</div>'


def _more(count: int, what: str) -> str:
    return f'<p class="dim">and {count:,} more {what}; edgeclf doctor --json names them</p>' if count > 0 else ""


def _figure(path: str, detail: str, images: _EmbeddedImages) -> str:
    url = images.url(path)
    shown = (
        '<div class="none">no image</div>'
        if url is None
        else f'<img src="{url}" alt="{_text(path)}" title="{_text(path)}" loading="lazy">'
    )
    more = f"<span>{_text(detail)}</span>" if detail else ""
    return f"<figure>{shown}<figcaption>{_text(path)}{more}</figcaption></figure>"


def _text(text: str) -> str:
    return html.escape(printable(text), quote=True)


def _with_code(text: str) -> str:
    """HTML of a text: escaped, with commands as code."""
    if "`" not in text:
        text = COMMAND.sub(r"`\g<0>`", text)
    return _CODE.sub(r"<code>\1</code>", _text(text))
