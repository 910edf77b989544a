"""The app's only custom Streamlit component: shows HTML, follows links without a reload, sorts tables.

The HTML comes from markup.py, where all text of a corpus is escaped. A link is an ordinary <a>, so a middle
click opens it in a new tab. A plain click changes the URL and sends the same event as the back button
(popstate), which makes Streamlit show the other page without reloading the app.
"""

import streamlit as st

SCRIPT = """
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".linked")
  if (root.shown === data) return
  root.shown = data
  root.innerHTML = data
  root.onclick = (event) => {
    const link = event.target.closest("a[href]")
    if (link && event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) {
      event.preventDefault()
      follow(link.getAttribute("href"))
    } else if (event.target.closest("th")) sort(event.target.closest("th"))
  }
  const here = root.querySelector("[data-scroll]")
  if (here) here.scrollIntoView({ block: "center" })
}

function follow(href) {
  history.pushState({}, "", href)
  window.dispatchEvent(new PopStateEvent("popstate"))
  document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0)
}

function sort(heading) {
  const column = heading.cellIndex
  const body = heading.closest("table").tBodies[0]
  const down = heading.dataset.sorted !== "down"
  for (const other of heading.parentElement.cells) delete other.dataset.sorted
  heading.dataset.sorted = down ? "down" : "up"
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent
  const compare = (a, b) => {
    const [x, y] = [Number(value(a)), Number(value(b))]
    return isNaN(x) || isNaN(y) ? value(a).localeCompare(value(b)) : x - y
  }
  body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)))
}
"""

STYLE = """
.linked { color: var(--st-text-color); font-family: var(--st-font); font-size: 0.875rem; }
a { color: inherit; text-decoration: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: left; font-weight: 600; opacity: 0.75; cursor: pointer; position: sticky; top: 0;
     background: var(--st-background-color); border-bottom: 1px solid var(--st-border-color);
     padding: 0.2rem 0.5rem; vertical-align: bottom; }
th[data-sorted=down]::after { content: " ▾"; } th[data-sorted=up]::after { content: " ▴"; }
td { padding: 0.15rem 0.5rem; border-bottom: 1px solid var(--st-border-color-light, var(--st-border-color)); }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
td a, .more { color: var(--st-link-color); } td a:hover, .more:hover { text-decoration: underline; }
.table { max-height: 24rem; overflow: auto; }
p { margin: 0; }
.token, .text { font-family: var(--st-code-font); }
.token { white-space: pre; unicode-bidi: isolate; direction: ltr; }
.text { line-height: 1.9; font-size: 0.85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.written { font-family: var(--st-code-font); font-size: 0.8rem; line-height: 1.3;
           white-space: pre; overflow-x: auto; }
.text a, td a.cell { color: inherit; }
.text a { padding: 0.12rem 0; border-radius: 2px; unicode-bidi: isolate; }
.text a:hover { outline: 2px solid var(--st-primary-color); }
.split { position: relative; display: inline-block; text-align: center; unicode-bidi: isolate; }
.slices { position: absolute; inset: 0; display: flex; } .slices a { flex: 1 1 0; }
.slices a + a { border-left: 1px dotted var(--st-border-color); }
.whole { position: relative; pointer-events: none; }
.here { outline: 2px solid var(--st-text-color); font-weight: 700; }
.unknown { opacity: 0.55; }
i { font-style: normal; opacity: 0.5; }
.legend { display: flex; align-items: center; gap: 0.5rem; flex-wrap: wrap; }
.legend .ramp { width: 14rem; height: 0.9rem; border-radius: 2px; border: 1px solid var(--st-border-color); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem 2rem; }
.panels h4 { margin: 0 0 0.3rem; font-size: 0.95rem; } .panels h4 small { font-weight: 400; opacity: 0.7; }
.kwic { display: grid; grid-template-columns: 3.6rem 1.15fr auto 1fr; align-items: baseline; padding: 1px 0;
        border-bottom: 1px solid var(--st-border-color-light, var(--st-border-color)); white-space: pre; }
.beside { display: grid; grid-template-columns: 1fr 5.5rem; align-items: baseline; }
.beside .kwic { min-width: 0; overflow: hidden; } .beside .more { text-align: right; font-size: 0.8rem; }
.kwic:hover { background: var(--st-secondary-background-color); }
.kwic .value { font-variant-numeric: tabular-nums; text-align: right; padding-right: 0.6rem; opacity: 0.8; }
.kwic .before { display: flex; justify-content: flex-end; overflow: hidden; }
.kwic .after { overflow: hidden; }
.kwic span { unicode-bidi: isolate; direction: ltr; }
mark { background: rgba(33, 113, 181, 0.45); color: inherit; border-radius: 2px; unicode-bidi: isolate; }
u { text-decoration: none; background: rgba(217, 95, 14, 0.45); border-radius: 2px; }
.grid { width: auto; } .grid td, .grid th { text-align: center; padding: 0; border: none; cursor: default; }
.grid td a { display: block; color: inherit; min-width: 3.4rem; padding: 0.45rem 0.2rem; }
.grid th { padding: 0 0.5rem; vertical-align: middle; }
.grid td a:hover { outline: 2px solid var(--st-primary-color); text-decoration: none; }
.facts { display: flex; flex-wrap: wrap; gap: 0.4rem 2rem; }
.facts div { display: flex; flex-direction: column; }
.facts b { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.facts span { opacity: 0.7; font-size: 0.8rem; }
"""

_component = st.components.v2.component(
    "annotate_transformer.linked", html='<div class="linked"></div>', css=STYLE, js=SCRIPT
)


def show(html: str, key: str | None = None) -> None:
    """Show HTML from markup.py. If a key is given, new HTML updates the component and does not replace it."""
    _component(data=html, key=key)
