"""Small steps from sites and places to findings."""

from saetools.gradients.advice import Words
from saetools.gradients.findings import Finding
from saetools.gradients.frames import Place
from saetools.gradients.values import Site


def once_a_block(sites: list[Site]) -> list[Site]:
    """Of the lines in one no_grad block, the first."""
    first: dict[object, Site] = {}
    for site in sorted(sites, key=lambda site: site.order):
        kept = first.setdefault(site.block or site.bit, site)
        kept.behind |= site.behind
    return list(first.values())


def suspicion_of(site: Site) -> tuple[int, int]:
    """How likely it is that this number comes back into the loss; 0 if it surely does not."""
    if site.joined:
        return (3, site.order)
    if site.last is not None and site.last.is_loss:
        return (0, site.order)
    return (2 if "numpy" in site.op else 1, site.order)


def set_aside(site: Site, words: Words) -> Finding:
    """What is said of a cut that is no finding."""
    return finding_at("cut", site.op, site.place, words, layer=site.layer)


def finding_at(
    kind: str, op: str, place: Place, words: Words, share: float = 1.0, layer: str = ""
) -> Finding:
    """A finding, with the line as it is shown."""
    return Finding(
        kind, op, place.shown(), place.lineno, place.source(), *words, share=share, layer=layer
    )
