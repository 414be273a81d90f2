"""The site as a reader meets it: in a browser, on a phone and on a desk, light and dark."""

import re
import shutil

import pytest
from faults import WIDTHS, faults_seen, pages_in

pytestmark = pytest.mark.nightly  # minutes


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_has_a_fault(site, served, browser, axe, width):
    home = served(site)
    pages = [path for path in pages_in(site) if path != site / "index.html"]  # it is the README
    addresses = [f"{home}/{path.relative_to(site).as_posix()}" for path in pages]
    assert len(addresses) > 60
    assert list(faults_seen(browser, width, addresses, axe)) == []


def found_by_search(browser, home, words):
    """The addresses that the search finds, once it says how many there are."""
    page = browser.new_page()
    page.goto(f"{home}/search.html?q={words}")
    page.locator(".search-summary", has_text=re.compile("pages? match|did not match")).wait_for()
    links = page.locator("#search-results li a").evaluate_all("all => all.map(it => it.href)")
    page.close()
    return links


@pytest.mark.parametrize("from_files", [False, True])
def test_search_finds_what_was_asked(site, served, browser, from_files):
    home = site.as_uri() if from_files else served(site)
    found = found_by_search(browser, home, "straight-through")
    assert any("03_soft_activations" in address for address in found)
    assert found_by_search(browser, home, "zzyzx") == []


def test_a_search_without_the_words_is_noticed(site, served, browser, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    index = tmp_path / "site" / "searchindex.js"
    text = index.read_text(encoding="utf-8")
    index.write_text(re.sub("straight|through", "gone", text), encoding="utf-8")
    found = found_by_search(browser, served(tmp_path / "site"), "straight-through")
    assert not any("03_soft_activations" in address for address in found)


def test_wide_code_scrolls_on_a_phone(site, browser):
    page = browser.new_page(viewport={"width": 360, "height": 900})
    wide = 0
    for path in sorted((site / "notebooks").glob("*.html")):
        page.goto(path.as_uri())
        wide += page.evaluate(
            """() => {
                const code = [...document.querySelectorAll(".highlight pre")]
                    .filter(block => block.scrollWidth > block.clientWidth);
                code.forEach(block => { block.scrollLeft = 5 });
                if (code.some(block => block.scrollLeft === 0)) throw "code that is cut off";
                return code.length;
            }"""
        )
    page.close()
    assert wide > 30


def test_on_paper_nothing_is_hidden_or_cut_off(site, browser):
    page = browser.new_page(viewport={"width": 700, "height": 900})
    page.emulate_media(media="print")
    page.goto((site / "notebooks" / "03_soft_activations.html").as_uri())
    widest = page.locator(".highlight pre").evaluate_all(
        "blocks => Math.max(...blocks.map(block => block.scrollWidth - block.clientWidth))"
    )
    assert widest <= 1
    folded = page.locator("article details").evaluate_all("all => all.map(it => it.offsetHeight)")
    assert len(folded) > 1
    assert min(folded) > 60  # pixels: more than the one line that stays when it is closed
    assert not page.locator(".bd-sidebar-primary").is_visible()
    page.close()


def test_on_paper_letters_are_dark_whatever_the_screen_is(site, browser):
    page = browser.new_page(color_scheme="dark")
    page.goto((site / "notebooks" / "03_soft_activations.html").as_uri())
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {theme} }})")
    page.pdf()
    assert page.evaluate("printed") == "light"
    assert page.evaluate(theme) == "dark"
    page.close()


FAULTS = {  # how a page is spoilt, and what is then said
    "a colour": (
        "</head>",
        "<style>p { color: #ccc; background: #fff }</style></head>",
        "light: color-contrast",
    ),
    "a colour in the dark": (
        "</head>",
        '<style>html[data-theme="dark"] p { color: #444 }</style></head>',
        "dark: color-contrast",
    ),
    "a colour of one word": (
        '<span class="n">loss</span>',
        '<span class="n" style="color: #bbb">loss</span>',
        "light: color-contrast",
    ),
    "a link like its text": (
        "</article>",
        '<p style="color: #000">Words, <a href="#" style="color: #333; text-decoration: none">'
        "a link</a>, and words.</p></article>",
        "light: link-in-text-block",
    ),
    "a picture": (' alt="Left:', ' data-alt="', "image-alt"),
    "a width": ("</article>", '</article><p style="width: 1600px">wide</p>', "scrolls sideways"),
    "a script": (
        "</head>",
        "<script>undefined_name()</script></head>",
        "fails with undefined_name",
    ),
    "a message": ("</head>", "<script>console.error('it broke')</script></head>", "it broke"),
    "a request": (
        "</head>",
        '<script src="http://example.invalid/x.js"></script></head>',
        "loads http",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(site, served, browser, axe, tmp_path, fault):
    old, new, says = FAULTS[fault]
    shutil.copytree(site / "_static", tmp_path / "_static")
    shutil.copytree(site / "_images", tmp_path / "_images")
    page = tmp_path / "README.html"
    text = (site / "README.html").read_text(encoding="utf-8")
    assert old in text
    page.write_text(text.replace(old, new, 1), encoding="utf-8")
    found = list(faults_seen(browser, 1440, [f"{served(tmp_path)}/README.html"], axe))
    assert any(says in what for what in found), found
