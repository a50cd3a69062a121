"""The contact sheet: a page that shows each query with the pictures it found.

Owns the HTML. The page stands alone: pictures are data URIs, nothing is fetched, no script runs, every text is escaped.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from eyebright_client import Hit, SearchResult

from eyebright_cli.demo.query import DemoQuery
from eyebright_cli.presentation import evidence_line, stages_line

_STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --card: #fff; --ink: #1d1d1b; --soft: #6b6b66; --line: #e2e2dc;
  --right: #1f9d55; }
@media (prefers-color-scheme: dark) { :root { --page: #161618; --card: #202023; --ink: #ededea; --soft: #a0a09a;
  --line: #34343a; --right: #3ecf7f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: clamp(1rem, 3vw, 3rem); max-width: 80rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: clamp(1.5rem, 4vw, 2.25rem); line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0; } .soft { color: var(--soft); font-size: .85rem; }
dl { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0 2rem; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .6rem 1rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 1rem; padding: 1.25rem;
  margin-bottom: 1.25rem; }
header { display: flex; align-items: center; gap: 1rem; margin-bottom: 1rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .75rem; list-style: none;
  margin: 0 0 1rem; padding: 0; }
figure { margin: 0; } figcaption { font-size: .8rem; line-height: 1.35; margin-top: .35rem; overflow-wrap: anywhere; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff; padding: .5rem;
  border: 1px solid var(--line); border-radius: .6rem; }
header img { width: 5rem; flex: none; }
.right img { border-color: var(--right); box-shadow: 0 0 0 3px var(--right); } .right b { color: var(--right); }
.numbers { color: var(--soft); font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A query and its answer."""

    query: DemoQuery
    result: SearchResult


def contact_sheet(findings: Sequence[Finding], pictures: Mapping[str, bytes], facts: Mapping[str, str]) -> str:
    """The page. ``pictures``: PNG by id; ``facts``: what was measured, name -> value."""
    measured = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    sections = "".join(_section(finding, pictures) for finding in findings)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Eyebright: what the demo found</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>What Eyebright found</h1>
<p class="soft">Each query with its nearest pictures, best first. A green frame marks a right answer. The model never
saw this art style in training.</p>
<dl>{measured}</dl>
{sections}
</body>
</html>
"""


def _section(finding: Finding, pictures: Mapping[str, bytes]) -> str:
    query, result = finding.query, finding.result
    if query.picture is None:
        title = f"<h2>“{escape(query.words)}”</h2>"
    else:
        title = f"{_image(query.picture, f'query: {query.words}')}<h2>{escape(query.words)}</h2>"
    hits = "".join(_hit(hit, pictures.get(hit.id), hit.id in query.right) for hit in result)
    lines = (evidence_line(result.evidence), stages_line(result.stages))
    return f"<section><header>{title}</header><ol>{hits}</ol>{_soft(lines)}</section>\n"


def _hit(hit: Hit, png: bytes | None, right: bool) -> str:
    picture = "" if png is None else _image(png, hit.caption or hit.id)
    probability = "" if hit.probability is None else f" · p {hit.probability:.3f}"
    mark, name = (' class="right"', "<b>✓</b> ") if right else ("", "")
    caption = f'{name}{escape(hit.caption or hit.id)}<br><span class="numbers">{hit.score:.3f}{probability}</span>'
    return f"<li{mark}><figure>{picture}<figcaption>{caption}</figcaption></figure></li>"


def _image(png: bytes, description: str) -> str:
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{b64encode(png).decode()}">'


def _soft(lines: Iterable[str]) -> str:
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in lines if line)
