"""The app's only custom Streamlit component: shows HTML, follows links without a reload, sorts tables.

The keyboard does what the mouse does. Only one link of a text or table is reached by the tabulator; the arrow
keys go on from there. Where nothing else has the focus, they follow the page's links with `data-key`.

The HTML comes from markup.py, where all text of a corpus is escaped. A link is an ordinary <a>, so a middle
click opens it in a new tab. A plain click changes the URL and sends the same event as the back button
(popstate), which makes Streamlit show the other page without reloading the app.
"""

import streamlit as st

from annotate_transformer.store.display import AMOUNT, LOWERS, RAISES

SCRIPT = """
const GROUPS = ".text, tbody, section, ul"  // of the links in one of these, the tabulator reaches one
const TAKES_KEYS = "input, textarea, select, [contenteditable], [role=radio], [role=tab], [role=slider]"
const WAYS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }
const main = () => document.querySelector('[data-testid="stMain"]')
const scrolls = new Map()  // URL -> how far its page was scrolled when it was left
let steps = null           // the element whose links the arrow keys follow

export default function ({ data, parentElement }) {
  listen()
  const root = parentElement.querySelector(".linked")
  // On a dark background the text is light.
  const [red, green, blue] = getComputedStyle(root).color.match(/[0-9]+/g)
  root.classList.toggle("dark", Math.min(red, green, blue) > 128)
  if (root.shown === data) return
  root.shown = data
  root.innerHTML = data
  root.onclick = (event) => {
    const link = event.target.closest("a[href]")
    if (link && event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) {
      event.preventDefault()
      follow(link.getAttribute("href"))
    } else if (event.target.closest("th button")) sort(event.target.closest("th"))
    else if (event.target.closest("[data-section]")) goTo(event.target.closest("[data-section]").textContent)
  }
  root.onkeydown = move
  for (const group of root.querySelectorAll(GROUPS)) {
    const links = [...group.querySelectorAll("a[href]")]
    const first = links.find((link) => link.classList.contains("here")) ?? links[0]
    for (const link of links) link.tabIndex = link === first ? 0 : -1
  }
  const here = root.querySelector("[data-scroll]")
  if (here) here.scrollIntoView({ block: "center" })
  if (root.querySelector("[data-key]")) steps = root
  root.querySelectorAll(".pattern").forEach(attend)
}

// The pointer or the focus on a token, or the pointer on a cell of the picture, colours the tokens of an
// attention pattern: those before it by what it takes from them, those after it by what they take from it.
function attend(box) {
  const [rows, hues, largest] = ["rows", "hues", "largest"].map((name) => JSON.parse(box.dataset[name]))
  const [told, picture] = [box.querySelector("output"), box.querySelector("img")]
  const tokens = [...box.querySelectorAll("a")]
  const name = (i) => `“${tokens[i].textContent}”`
  const value = (to, from) => rows[to][from] ?? 0
  const colour = (i) => tokens.forEach((token, j) => {
    const found = value(Math.max(i, j), Math.min(i, j))
    token.style.background = `rgba(var(${hues[+(found < 0)]}), ${(0.65 * Math.abs(found)) / (largest || 1)})`
    token.classList.toggle("here", i === j)
  })
  const tell = (to, from) => {
    colour(to)
    const back = `${to - from} token${to - from === 1 ? "" : "s"} back`
    const earlier = 1 - rows[to].reduce((sum, found) => sum + found, 0)
    const more = hues[0] === hues[1] && earlier > 0.0005 ? `; from earlier tokens: ${earlier.toFixed(3)}` : ""
    const amount = rows[to][from]?.toFixed(3) ?? "not known"
    told.textContent = `${name(to)} from ${name(from)}, ${back}: ${amount}${more}`
  }
  const isLarger = (to, j, best) => Math.abs(value(to, j)) > Math.abs(value(to, best))
  const largestOf = (to) => rows[to].reduce((best, _, j) => (isLarger(to, j, best) ? j : best), 0)
  tokens.forEach((token, i) =>
    ["pointerenter", "focus"].forEach((event) => token.addEventListener(event, () => tell(i, largestOf(i)))))
  picture.addEventListener("pointermove", (event) => {
    const shares = [event.offsetY / picture.clientHeight, event.offsetX / picture.clientWidth]
    const [to, from] = shares.map((share) => Math.min(tokens.length - 1, Math.floor(share * tokens.length)))
    if (from <= to) tell(to, from)
  })
  tell(tokens.length - 1, largestOf(tokens.length - 1))
}

// Move the focus to the next or previous link of a text or table; up and down stay in a table's column.
function move(event) {
  const link = event.target.closest("a[href]")
  const [way, group] = [WAYS[event.key], link?.closest(GROUPS)]
  if (!way || !group || event.ctrlKey || event.metaKey || event.altKey) return
  const cell = event.key.endsWith("Up") || event.key.endsWith("Down") ? link.closest("td") : null
  const links = [...group.querySelectorAll("a[href]")].filter(
    (other) => !cell || other.closest("td").cellIndex === cell.cellIndex)
  const next = links[links.indexOf(link) + way]
  if (next) {
    link.tabIndex = -1
    next.tabIndex = 0
    next.focus()
  }
  event.preventDefault()
}

function listen() {
  if (window.annotateListens) return
  window.annotateListens = true
  window.addEventListener("keydown", (event) => {
    const typing = event.composedPath()[0].closest?.(TAKES_KEYS)
    const changed = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey
    if (typing || changed || event.defaultPrevented || !steps?.isConnected) return
    const link = steps.querySelector(`a[data-key="${event.key}"]`)
    if (link) follow(link.getAttribute("href"))
  })
  window.addEventListener("popstate", (event) => {
    const href = location.href
    if (event.isTrusted) shown(() => location.href === href && main().scrollTo(0, scrolls.get(href) ?? 0))
  })
  // The sidebar's links and its search box are Streamlit's own: they change the URL some moments later.
  const leaving = (event) => {
    const href = location.href
    const place = event.key === "Enter" ? "input" : "a"
    if (event.target.closest?.(`[data-testid="stSidebar"] ${place}`))
      once(() => location.href !== href, () => focusHeading())
  }
  document.addEventListener("click", leaving)
  document.addEventListener("keydown", (event) => event.key === "Enter" && leaving(event))
}

function follow(href) {
  scrolls.set(location.href, main().scrollTop)
  history.pushState({}, "", href)
  window.dispatchEvent(new PopStateEvent("popstate"))
  main().scrollTo(0, 0)
  focusHeading()
}

// Scroll to a section of the page, and move the focus there.
function goTo(title) {
  const heading = [...main().querySelectorAll("h3")].find((other) => other.textContent === title)
  heading?.scrollIntoView({ block: "start" })
  heading?.setAttribute("tabindex", "-1")
  heading?.focus({ preventScroll: true })
}

// Move the focus to the page's heading. On a busy machine this may be the heading of the page before: when it
// goes, and the focus with it, the new one gets the focus.
function focusHeading(until = Date.now() + 30000) {
  shown(() => {
    const heading = document.querySelector("h1")
    heading?.setAttribute("tabindex", "-1")
    heading?.focus({ preventScroll: true })
    const isLost = () => !heading?.isConnected && document.activeElement === document.body
    once(isLost, () => focusHeading(until), until)
  })
}

// Call a function once the page is complete: Streamlit's script has not run for a while.
function shown(act) {
  let since = Date.now()
  once(() => {
    const state = document.querySelector('[data-testid="stApp"]').dataset.testScriptState
    if (state !== "notRunning") since = Date.now()
    return Date.now() - since > 400
  }, act)
}

// Call a function as soon as a condition holds, at most a minute from now.
function once(holds, act, until = Date.now() + 60000) {
  if (holds()) act()
  else if (Date.now() < until) setTimeout(once, 50, holds, act, until)
}

function sort(heading) {
  const column = heading.cellIndex
  const body = heading.closest("table").tBodies[0]
  const down = heading.dataset.sorted !== "down"
  for (const other of heading.parentElement.cells) {
    delete other.dataset.sorted
    other.removeAttribute("aria-sort")
  }
  heading.dataset.sorted = down ? "down" : "up"
  heading.setAttribute("aria-sort", down ? "descending" : "ascending")
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent
  const compare = (a, b) => {
    const [x, y] = [Number(value(a)), Number(value(b))]
    return isNaN(x) || isNaN(y) ? value(a).localeCompare(value(b)) : x - y
  }
  body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)))
}
"""

HUES = f"""
.linked {{ --raises: {RAISES}; --lowers: {LOWERS}; --amount: {AMOUNT}; }}
.linked.dark {{ --raises: 75, 140, 220; --lowers: 215, 118, 45; --amount: 150, 128, 220; }}
"""
STYLE = """
.dark img { filter: brightness(1.5); }
.linked { color: var(--st-text-color); font-family: var(--st-font); font-size: 0.875rem; }
a { color: inherit; text-decoration: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: left; font-weight: 600; opacity: 0.75; position: sticky; top: 0;
     background: var(--st-background-color); border-bottom: 1px solid var(--st-border-color);
     padding: 0.2rem 0.5rem; vertical-align: bottom; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--st-primary-color); }
th[data-sorted=down]::after { content: " ▾"; } th[data-sorted=up]::after { content: " ▴"; }
td { padding: 0.15rem 0.5rem; border-bottom: 1px solid var(--st-border-color-light, var(--st-border-color)); }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
td a, .more { color: var(--st-link-color); } td a:hover { text-decoration: underline; }
p .more, li .more, nav .more { text-decoration: underline; text-underline-offset: 0.15em; }
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
.unknown { opacity: 0.7; }
i { font-style: normal; opacity: 0.75; }
.legend { display: flex; align-items: center; gap: 0.5rem; flex-wrap: wrap; }
.legend .ramp { width: 14rem; height: 0.9rem; border-radius: 2px; border: 1px solid var(--st-border-color); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem 2rem; }
.panels h4 { margin: 0 0 0.3rem; font-size: 0.95rem; } .panels h4 small { font-weight: 400; opacity: 0.7; }
.kwic { display: grid; grid-template-columns: 3.6rem 1.15fr auto 1fr; align-items: baseline; padding: 1px 0;
        border-bottom: 1px solid var(--st-border-color-light, var(--st-border-color)); white-space: pre; }
.beside { display: grid; grid-template-columns: 1fr 5.5rem; align-items: baseline; }
.beside .kwic { min-width: 0; overflow: hidden; } .beside .more { text-align: right; font-size: 0.8rem; }
.example { display: grid; grid-template-columns: 3.6rem 1fr; padding: 1px 0; align-items: baseline;
           border-bottom: 1px solid var(--st-border-color-light, var(--st-border-color)); }
.example .value { font-variant-numeric: tabular-nums; text-align: right; padding-right: 0.6rem; }
.example span span { white-space: pre-wrap; border-radius: 2px; unicode-bidi: isolate; }
.example:hover, .kwic:hover { background: var(--st-secondary-background-color); }
.kwic .value { font-variant-numeric: tabular-nums; text-align: right; padding-right: 0.6rem; opacity: 0.8; }
.kwic .before { display: flex; justify-content: flex-end; overflow: hidden; }
.kwic .after { overflow: hidden; }
.kwic span { unicode-bidi: isolate; direction: ltr; }
mark { background: rgba(var(--raises), 0.45); color: inherit; border-radius: 2px; unicode-bidi: isolate; }
u { text-decoration: none; background: rgba(var(--lowers), 0.45); border-radius: 2px; }
.grid { width: auto; } .grid td, .grid th { text-align: center; padding: 0; border: none; cursor: default; }
.grid td a { display: block; color: inherit; min-width: 3.4rem; padding: 0.45rem 0.2rem; }
.grid th { padding: 0 0.5rem; vertical-align: middle; }
.grid td a:hover { outline: 2px solid var(--st-primary-color); text-decoration: none; }
.lens td a { min-width: 2rem; max-width: 7rem; overflow: hidden; font-family: var(--st-code-font); }
.pattern img { width: min(100%, 26rem); aspect-ratio: 1; image-rendering: pixelated; cursor: crosshair;
               border: 1px solid var(--st-border-color); }
.thumbnails { display: flex; flex-wrap: wrap; gap: 0.5rem; text-align: center; font-size: 0.75rem; }
.thumbnails img { width: 4.5rem; aspect-ratio: 1; image-rendering: pixelated;
                  border: 1px solid var(--st-border-color); }
.thumbnails a { display: block; color: var(--st-link-color); }
ul { list-style: none; margin: 0; padding: 0; } li { overflow-wrap: anywhere; padding: 0.1rem 0; }
.chips { display: flex; flex-wrap: wrap; gap: 0.3rem 0.6rem; }
.chips li { border: 1px solid var(--st-border-color); border-radius: 1rem; padding: 0.1rem 0.7rem; }
.choices { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; } .choices a { color: var(--st-link-color); }
.sections { background: var(--st-background-color); display: flex; gap: 1rem; font-size: 0.8rem;
            padding: 0.3rem 0; overflow-x: auto; white-space: nowrap; }
.sections button { all: unset; cursor: pointer; color: var(--st-link-color); text-decoration: underline;
                   text-underline-offset: 0.15em; }
.sections button:focus-visible { outline: 2px solid var(--st-primary-color); }
.path { font-size: 0.8rem; } .path span { opacity: 0.8; }
h3 { margin: 0.6rem 0 0; font-size: 1.1rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.4rem 2rem; }
.facts div { display: flex; flex-direction: column; }
.facts b { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.facts span { opacity: 0.7; font-size: 0.8rem; }
"""

_component = st.components.v2.component(
    "annotate_transformer.linked", html='<div class="linked"></div>', css=HUES + STYLE, js=SCRIPT
)


def show(html: str, key: str | None = None) -> None:
    """Show HTML from markup.py. If a key is given, new HTML updates the component and does not replace it."""
    _component(data=html, key=key)
