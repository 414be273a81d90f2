"""From what was seen to what is said: what is a finding, and what is set aside."""

from collections.abc import Iterator

from saetools.gradients import advice
from saetools.gradients.findings import Finding, Trace
from saetools.gradients.frames import Place
from saetools.gradients.leaves import Leaf, Optimizers
from saetools.gradients.values import Operation, Site
from saetools.gradients.watch import Watch
from saetools.gradients.zeros import Suspicion

# Ordinary ReLU networks have layers at their default initialisation of which half is silent, ten
# spreads from 0: inside a network only a share far beyond one half is evidence. A silent output
# can never be right.
_CLEAR_SHARE = 0.75
_FAR = 3.0  # spreads between the mean and the bound, where silence is no chance


class Verdict:
    """What was seen, judged at the end of the block."""

    def __init__(
        self, watch: Watch, optimizers: Optimizers, orphans: dict[Place, Operation | None]
    ) -> None:
        self.watch, self.optimizers, self.orphans = watch, optimizers, orphans
        self.passes, self.sites = watch.passes, watch.sites.all
        self.straight_through = watch.flow.straight_through
        self.leaves = watch.leaves.all()
        self.of_model = watch.leaves.of_model
        self.wanted = watch.leaves.wanted()
        self.is_copy = watch.leaves.is_copy
        self.explained: set[Leaf] = set()  # leaves that nothing reaches, and it is said why

    def write(self, trace: Trace) -> None:
        """Fill `trace`: cuts first, then the rest, each in the order of the code."""
        cuts = self._cuts()
        zeros, floors = self._zeros()
        trace.findings = [
            *map(self._of_site, cuts),
            *self._nothing_requires(cuts),
            *zeros,
            *self._not_finite(),
            *self._detached(),
            *self._of_optimizers(),
        ]
        trace.not_accused = [*self._left_alone(cuts), *floors, *self._harmless()]
        trace.operations, trace.backward_calls = self.watch.operations, self.passes.calls
        trace.parameters = len(self.wanted)
        trace.reached = sum(leaf.reached for leaf in self.wanted)
        trace.hints += self._hints(cuts)

    def _cuts(self) -> list[Site]:
        """The cuts that matter, in order; of the lines in one no_grad block, the first."""
        found: set[Site] = set()
        if not self.passes.calls:  # nothing is known of where they flow
            found |= {s for s in self.sites if not s.quiet and not s.bit & self.straight_through}
        else:
            found |= self._flowing_cuts()
        first: dict[object, Site] = {}
        for site in sorted(found, key=lambda site: site.order):
            kept = first.setdefault(site.block or site.bit, site)
            kept.behind |= site.behind
        return list(first.values())

    def _flowing_cuts(self) -> set[Site]:
        found = {cut.site for cut in self.passes.lost}
        missed = [leaf for leaf in self.wanted if not leaf.reached]
        flowing = [site for site in self.sites if site.bit & self.passes.every]
        for leaf in missed:  # the last cut between it and a loss
            between = [site for site in flowing if site.behind & leaf.bit]
            hard = [site for site in between if not site.explicit or site.number]
            if between and (hard or not self.is_copy(leaf)):
                self.explained.add(leaf)
                found.add(max(hard or between, key=lambda site: site.order))
        if self.passes.without_graph and not found:
            found |= {site for site in flowing if not site.explicit} or set(flowing)
        if not found and not any(leaf.reached for leaf in self.leaves if leaf.trained):
            behind = sum({leaf.bit for leaf in missed})  # the loss was made from a number
            numbers = [site for site in self.sites if site.number and site.behind & behind]
            found |= set(sorted(numbers, key=Site.suspicion)[-1:])
        return found | {site for site in flowing if site.sample and not site.scored}

    def _of_site(self, site: Site) -> Finding:
        behind = [leaf.name for leaf in self.explained if leaf.bit & site.behind and leaf.name]
        return _finding("cut", site, advice.of_cut(site, sorted(behind)))

    def _nothing_requires(self, cuts: list[Site]) -> Iterator[Finding]:
        if not self.passes.without_graph or cuts or self.passes.place is None:
            return
        is_frozen = not any(leaf.requires_gradient() for leaf in self.of_model)
        words = advice.NOTHING_REQUIRES
        if self.of_model and is_frozen:
            words = advice.frozen(len(self.of_model))
        yield _found("cut", "Tensor.backward", self.passes.place, words)

    def _zeros(self) -> tuple[list[Finding], list[Finding]]:
        found: dict[object, Finding] = {}
        aside: list[Finding] = []
        starved = {leaf for leaf in self.leaves if leaf.is_starved()}
        all_starved = bool(starved) and not any(leaf.fed for leaf in self.leaves)
        for suspicion in self.passes.suspicions.values():
            why, operation = suspicion.why, suspicion.operation
            judged = self._judge(suspicion, bool(suspicion.leaves & starved), all_starved)
            names = sorted(leaf.name for leaf in suspicion.leaves & starved if leaf.name)
            words = advice.of_zeros(why, operation, suspicion.node, names)
            if judged is False and why != "zero":
                words = advice.FLOOR if why == "floor" else advice.SILENT
            kind = "cut" if why == "none" else "zeroed"
            finding = _finding(kind, operation, words, suspicion.share)
            if judged:
                found.setdefault((operation.op, operation.place, operation.layer), finding)
            elif judged is False:
                aside.append(finding)
        return list(found.values()), aside

    def _judge(self, suspicion: Suspicion, is_hungry: bool, all_starved: bool) -> bool | None:
        """True for a finding, False for what is set aside, None for nothing at all."""
        why, silence = suspicion.why, suspicion.operation.silence
        if why == "floor":
            return False
        if why == "entries":
            return True
        if why == "units":
            is_many = suspicion.at_output or suspicion.share >= _CLEAR_SHARE
            return is_many and silence is not None and silence.spreads >= _FAR
        if why == "masked":
            return all_starved or None
        if why == "flat":
            return is_hungry or suspicion.at_output or None
        return is_hungry or (False if why == "zero" else None)

    def _not_finite(self) -> list[Finding]:
        found: dict[object, Finding] = {}
        harmful = self.passes.bad_values if self.passes.calls else self.watch.finite.bad
        slopes = [operation.order for operation in self.passes.bad_slopes]
        first = min([o.order for o in harmful if o.order >= 0] + slopes, default=0)
        for operation in sorted(harmful, key=lambda o: o.order):
            # NaN in the weights comes of an earlier one, if there was one.
            if operation.order >= 0 and (not operation.why_bad or operation.order == first):
                words = advice.of_not_finite(operation, in_value=True)
                where = (operation.op, operation.place)
                found.setdefault(where, _finding("not finite", operation, words))
        for operation, share in self.passes.bad_slopes.items():
            words = advice.of_not_finite(operation, in_value=False)
            where = (operation.op, operation.place)
            found.setdefault(where, _finding("not finite", operation, words, share))
        return list(found.values())

    def _harmless(self) -> Iterator[Finding]:
        bad = {*self.passes.bad_values, *self.passes.bad_slopes}
        for operation in self.passes.harmless:
            if operation.order >= 0 and operation not in bad:
                yield _finding("not finite", operation, advice.HARMLESS)

    def _detached(self) -> Iterator[Finding]:
        """Parameters that the block uses, that no loss reaches, for no reason that was seen."""
        for leaf in self.wanted if self.passes.place is not None else ():
            is_missed = leaf.used and not leaf.reached and leaf.name
            if is_missed and leaf not in self.explained and not self.is_copy(leaf):
                assert self.passes.place is not None
                yield _found("detached parameter", leaf.name, self.passes.place, advice.DETACHED)

    def _of_optimizers(self) -> Iterator[Finding]:
        for place in self.optimizers.cleared:
            yield _found("cleared", "zero_grad", place, advice.CLEARED)
        by_place: dict[Place, dict[str, None]] = {}
        for leaf in self.optimizers.forgotten() if self.optimizers.given else ():
            place = leaf.place or self.passes.place or Place("", 0)
            by_place.setdefault(place, {})[leaf.words] = None
        for place, names in by_place.items():
            yield _found("not optimized", ", ".join(names), place, advice.NOT_OPTIMIZED)
        for place, made_by in self.orphans.items():
            yield _found("no leaf", "Tensor.grad", place, advice.no_leaf(made_by))

    def _left_alone(self, cuts: list[Site]) -> Iterator[Finding]:
        """Numbers that left the graph first, the most suspicious of them first; then the rest."""
        cuts = cuts if self.passes.calls else []
        others = [site for site in self.sites if site not in cuts and not site.quiet]
        for site in sorted(others, key=Site.suspicion, reverse=True):
            if site.number and site.suspicion()[0] > 0:
                yield _finding("cut", site, advice.NUMBER)
        for site in others:
            if site.bit & self.straight_through:
                yield _finding("cut", site, advice.STRAIGHT_THROUGH)
            elif site.bit & self.passes.every and not site.number:
                yield _finding("cut", site, advice.STOPPED if site.explicit else advice.MASK)

    def _hints(self, cuts: list[Site]) -> Iterator[str]:
        idle = [leaf for leaf in self.of_model if leaf.is_wanted() and not leaf.used]
        unused = [
            leaf.name
            for leaf in idle
            if not leaf.reached and not any(site.behind & leaf.bit for site in cuts)
        ]
        if unused and self.passes.calls:
            yield f"Not used where gradients are recorded: {advice.listed(unused)}"
        forgotten = [] if self.optimizers.given else self.optimizers.forgotten()
        if forgotten and any(leaf.stepped for leaf in self.of_model):
            names = [f"{f.words}, line {f.place.lineno}" if f.place else f.words for f in forgotten]
            listed = advice.listed(names)
            yield f"Get a gradient, and no optimizer that made a step here holds them: {listed}"
        if self.optimizers.held_elsewhere():
            yield (
                "The optimizer holds no parameter of this model: was it made for a copy of it, or "
                "before the layers were replaced?"
            )
        if not self.passes.calls:
            yield (
                "No backward pass was seen: put loss.backward() into the block to see which cuts "
                "matter, and zeros and NaN."
            )


def _finding(kind: str, what: Site | Operation, words: advice.Words, share: float = 1.0) -> Finding:
    return _found(kind, what.op, what.place, words, share, what.layer)


def _found(
    kind: str, op: str, place: Place, words: advice.Words, share: float = 1.0, layer: str = ""
) -> Finding:
    """A finding, with the line as it is shown."""
    return Finding(kind, op, place.shown(), place.lineno, place.source(), *words, share, layer)
