"""What is wrong with a page, as a list of sentences: by reading it, or in a browser."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
# Widths at which a browser shows each page, in each of the colour schemes.
WIDTHS, SCHEMES = (360, 1440), ("light", "dark")
# What axe says of colours, it says of text that stands for all of its kind.
COLOURS = {"color-contrast": "[data-looked-at]", "link-in-text-block": "a[href][data-looked-at]"}
REPRESENTATIVES = Path(__file__).with_name("representatives.js").read_text(encoding="utf-8")
# The other spans of code then make room: they have a colour, and nothing else that axe asks for.
REST = """() => {
    for (const span of document.querySelectorAll(".highlight span[class]:not([data-looked-at])"))
        if (!span.childElementCount && span.attributes.length === 1)
            span.replaceWith(...span.childNodes);
}"""
FOUND = {"serious", "critical"}  # what axe calls them


class Page(HTMLParser):
    """The addresses, the anchors and the pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors, self.images = [], [], {""}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag in LOADED and LOADED[tag] in attrs and attrs.get("rel") not in ("canonical", "next"):
            self.loads.append(attrs[LOADED[tag]])
        if tag == "img":
            self.images.append((attrs.get("src"), attrs.get("alt") or ""))


def pages_in(folder):
    """Not the theme's templates, which it leaves in _static."""
    return [p for p in sorted(Path(folder).rglob("*.html")) if "_static" not in p.parts]


def read(folder):
    return {path: Page(path.read_text(encoding="utf-8")) for path in pages_in(folder)}


def faults_in(folder):
    """What a reader of the files finds: links that lead nowhere, pictures without words, loads."""
    pages = read(folder)
    for path, page in pages.items():
        name = path.relative_to(folder)
        for link in page.links + page.loads:
            if urlsplit(link).scheme in ("http", "https", "mailto"):
                if link in page.loads:
                    yield f"{name}: loads {link}"
                continue
            address, anchor = urldefrag(link)
            target = Path(unquote(urlsplit(urljoin(path.as_uri(), address)).path))
            if not target.is_file():
                yield f"{name}: {link} leads nowhere"
            elif target in pages and unquote(anchor) not in pages[target].anchors:
                yield f"{name}: {link} has no such place"
        for source, alt in page.images:
            if len(alt.split()) < 3:
                yield f"{name}: {source[-20:]} has no alt text, or next to none: {alt!r}"


def faults_seen(browser, width, addresses, axe):
    """What a browser meets on the pages at that width, in both colour schemes."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    looked_at = [{"id": rule, "selector": selector} for rule, selector in COLOURS.items()]
    met = []
    page.on("console", lambda said: said.type == "error" and met.append(f"says {said.text}"))
    page.on("pageerror", lambda error: met.append(f"fails with {error}"))
    page.on("request", lambda asked: is_outside(asked.url) and met.append(f"loads {asked.url}"))
    for address in addresses:
        met.clear()
        page.goto(address)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            met.append(f"scrolls sideways at {width}")
        page.evaluate(axe.axe_script)
        page.evaluate("rules => axe.configure({rules})", looked_at)
        for scheme in reversed(SCHEMES):
            show(page, scheme)
            page.evaluate(REPRESENTATIVES)
        page.evaluate(REST)
        for scheme in SCHEMES:
            show(page, scheme)
            options = {"resultTypes": ["violations"], "preload": False}
            if scheme != SCHEMES[0]:  # what is no colour is the same
                options["runOnly"] = [*COLOURS]
            report = page.evaluate("options => axe.run(options)", options)
            for found in report["violations"]:
                if found["impact"] in FOUND:
                    where = found["nodes"][0]["html"][:160]
                    met.append(f"{scheme}: {found['id']} ({len(found['nodes'])}), such as {where}")
        yield from (f"{address} {what}" for what in met)
    context.close()


def show(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")


def is_outside(address):
    parts = urlsplit(address)
    return parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1"
