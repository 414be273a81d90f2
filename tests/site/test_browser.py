"""The site as a reader meets it: in a browser, on a phone and on a desk, light and dark."""

import re
import shutil

import pytest
from faults import VIEWS, faults_seen, pages_in

pytestmark = pytest.mark.nightly  # minutes


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_no_page_has_a_fault(site, served, browser, axe, view):
    home = served(site)
    addresses = [f"{home}/{path.relative_to(site).as_posix()}" for path in pages_in(site)]
    assert len(addresses) > 60
    assert list(faults_seen(browser, view, addresses, axe)) == []


@pytest.mark.parametrize("from_files", [False, True])
def test_search_finds_what_was_asked(site, served, browser, from_files):
    home = site.as_uri() if from_files else served(site)
    page = browser.new_page()
    page.goto(f"{home}/search.html?q=straight-through")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    pages = found.evaluate_all("links => links.map(link => link.href)")
    assert any("03_soft_activations" in address for address in pages)
    page.goto(f"{home}/search.html?q=zzyzx")
    page.get_by_text("did not match any documents").wait_for()
    page.close()


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


FAULTS = {  # how a page is spoilt, and what is then said
    "a colour": (
        "</head>",
        "<style>p { color: #ccc; background: #fff }</style></head>",
        "contrast",
    ),
    "a picture": (' alt="Left:', ' data-alt="', "image-alt"),
    "a width": ("</article>", '</article><p style="width: 1600px">wide</p>', "scrolls sideways"),
    "a script": ("</head>", "<script>undefined_name()</script></head>", "undefined_name"),
    "a request": ("</head>", '<script src="http://example.invalid/x.js"></script></head>', "loads"),
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
    found = list(faults_seen(browser, (1440, "light"), [f"{served(tmp_path)}/README.html"], axe))
    assert any(re.search(says, what) for what in found), found
