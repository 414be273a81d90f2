"""From what was seen to what is said: what is a finding, and what is set aside."""

from collections.abc import Iterable, Iterator

from saetools.gradients import advice, advice_numbers
from saetools.gradients.findings import Finding, Trace
from saetools.gradients.frames import Place
from saetools.gradients.leaves import Leaf
from saetools.gradients.sentences import finding_at, once_a_block, set_aside, suspicion_of
from saetools.gradients.tracer import Tracer
from saetools.gradients.values import Operation, Site
from saetools.gradients.zeros import Suspicion

# Ordinary ReLU networks have layers at their default initialisation of which half is silent, ten
# spreads from 0: inside a network only a share far beyond one half is evidence. A silent output
# can never be right.
_CLEAR_SHARE = 0.75
_FAR = 3.0  # spreads between the mean and the bound, where silence is no chance


class Verdict:
    """What a tracer has seen, judged at the end of the block."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.passes, self.watch = tracer.passes, tracer.watch
        self.leaves = tracer.leaves.all()
        self.wanted = tracer.leaves.wanted()
        self.found: list[Site] = []  # the cuts that matter
        self.explained: set[Leaf] = set()  # leaves that nothing reaches, and it is said why

    def write(self, trace: Trace) -> None:
        """Fill `trace`: cuts first, then the rest, each in the order of the code."""
        self.found = cuts = self._cuts()
        zeros, floors = self._zeros()
        trace.findings = [
            *(self._of_site(site) for site in sorted(cuts, key=lambda s: s.order)),
            *self._nothing_requires(cuts),
            *zeros,
            *self._not_finite(),
            *self._detached(),
            *self._of_optimizers(),
        ]
        trace.not_accused = [*self._left_alone(cuts), *floors]
        trace.operations, trace.backward_calls = self.watch.operations, self.passes.calls
        trace.parameters = len(self.wanted)
        trace.reached = sum(leaf.reached for leaf in self.wanted)
        trace.hints = list(self._hints())

    def _cuts(self) -> list[Site]:
        """The cuts that matter."""
        sites = self.watch.sites.all
        if not self.passes.calls:  # nothing is known of where they flow
            aside = self.watch.flow.straight_through
            return [s for s in sites if not s.quiet and not s.bit & aside]
        found = {id(cut.site): cut.site for cut in self.passes.lost}
        missed = [leaf for leaf in self.wanted if leaf.is_missed()]
        flowing = [site for site in sites if site.bit & self.passes.every]
        for site in self._in_front_of(missed, flowing):
            found[id(site)] = site
        if self.passes.without_graph and not found:
            hard = [site for site in flowing if not site.explicit]
            found |= {id(site): site for site in hard or flowing}
        if not found and not any(leaf.reached for leaf in self.leaves if leaf.trained):
            found |= {id(site): site for site in self._numbers_behind(missed)}
        for site in flowing:
            if site.sample and not site.scored:
                found[id(site)] = site
        return once_a_block(list(found.values()))

    def _in_front_of(self, missed: Iterable[Leaf], flowing: list[Site]) -> Iterator[Site]:
        """For each leaf that no loss reaches, the last cut between the two."""
        for leaf in missed:
            between = [site for site in flowing if site.behind & leaf.bit]
            hard = [site for site in between if not site.explicit or site.number]
            if between and (hard or not self.tracer.leaves.is_copy(leaf)):
                self.explained.add(leaf)
                yield max(hard or between, key=lambda site: site.order)

    def _numbers_behind(self, missed: list[Leaf]) -> list[Site]:
        """Where no parameter is reached at all: the number that the loss was made from."""
        bits = sum({leaf.bit for leaf in missed})
        numbers = [site for site in self.watch.sites.all if site.number and site.behind & bits]
        numbers.sort(key=suspicion_of, reverse=True)
        return numbers[:1]

    def _of_site(self, site: Site) -> Finding:
        behind = [leaf.name for leaf in self.explained if leaf.bit & site.behind and leaf.name]
        words = advice.of_cut(site, sorted(behind))
        return finding_at("cut", site.op, site.place, words, layer=site.layer)

    def _nothing_requires(self, cuts: list[Site]) -> Iterator[Finding]:
        if not self.passes.without_graph or cuts or not self.passes.places:
            return
        frozen = [leaf for leaf in self.tracer.leaves.of_model if not leaf.requires_gradient()]
        all_frozen = frozen and len(frozen) == len(self.tracer.leaves.of_model)
        words = advice.frozen(len(frozen)) if all_frozen else advice.NOTHING_REQUIRES
        place = self.passes.places[-1]
        yield finding_at("cut", "Tensor.backward", place, words)

    def _zeros(self) -> tuple[list[Finding], list[Finding]]:
        found: dict[tuple[str, Place, str], Finding] = {}
        aside: list[Finding] = []
        starved = {leaf for leaf in self.leaves if leaf.is_starved() and leaf.may_be_starved()}
        all_starved = bool(starved) and not any(leaf.fed for leaf in self.leaves)
        for suspicion in self.passes.suspicions.values():
            operation = suspicion.operation
            judged = self._judge(suspicion, starved, all_starved)
            names = sorted(leaf.name for leaf in suspicion.leaves & starved if leaf.name)
            words = advice_numbers.of_zeros(suspicion.why, operation, suspicion.node, names)
            if judged == "" and suspicion.why != "zero":
                words = advice_numbers.FLOOR if suspicion.why == "floor" else advice_numbers.SILENT
            if judged is None:
                continue
            kind = "cut" if suspicion.why == "none" else "zeroed"
            finding = finding_at(
                kind, operation.op, operation.place, words, suspicion.share, operation.layer
            )
            if judged:
                found.setdefault((operation.op, operation.place, operation.layer), finding)
            else:
                aside.append(finding)
        return list(found.values()), aside

    def _judge(self, suspicion: Suspicion, starved: set[Leaf], all_starved: bool) -> str | None:
        """A non-empty string for a finding, "" for what is set aside, None for nothing at all."""
        why, silence = suspicion.why, suspicion.operation.silence
        hungry = bool(suspicion.leaves & starved)
        if why == "floor":
            return ""
        if why == "entries":
            return why
        if why == "units":
            if silence is None:
                return why
            is_many = suspicion.at_output or suspicion.share >= _CLEAR_SHARE
            return why if is_many and silence.spreads >= _FAR else ""
        if why == "masked":
            return why if all_starved else None
        if why == "flat":
            return why if hungry or suspicion.at_output else None
        return why if hungry else ("" if why == "zero" else None)

    def _not_finite(self) -> list[Finding]:
        found: dict[tuple[str, Place], Finding] = {}
        harmful = self.passes.bad_values if self.passes.calls else self.watch.finite.bad
        slopes = [operation.order for operation in self.passes.bad_slopes]
        first = min([o.order for o in harmful if o.order >= 0] + slopes, default=0)
        for operation in sorted(harmful, key=lambda o: o.order):
            # NaN in the weights comes of an earlier one, if there was one.
            if operation.order >= 0 and (not operation.why_bad or operation.order == first):
                self._add_not_finite(found, operation, in_value=True)
        for operation, share in self.passes.bad_slopes.items():
            self._add_not_finite(found, operation, in_value=False, share=share)
        return list(found.values())

    def _add_not_finite(
        self,
        found: dict[tuple[str, Place], Finding],
        operation: Operation,
        in_value: bool,
        share: float = 1.0,
    ) -> None:
        words = advice_numbers.of_not_finite(operation, in_value)
        finding = finding_at(
            "not finite", operation.op, operation.place, words, share, operation.layer
        )
        found.setdefault((operation.op, operation.place), finding)

    def _detached(self) -> Iterator[Finding]:
        """Parameters that the block uses, that no loss reaches, for no reason that was seen."""
        if not self.passes.calls:
            return
        for leaf in self.wanted:
            is_missed = leaf.used and not leaf.reached and leaf.name
            if is_missed and leaf not in self.explained and not self.tracer.leaves.is_copy(leaf):
                place = self.passes.places[-1]
                yield finding_at("detached parameter", leaf.name, place, advice.DETACHED)

    def _of_optimizers(self) -> Iterator[Finding]:
        optimizers = self.tracer.optimizers
        for place in dict.fromkeys(optimizers.cleared):
            yield finding_at("cleared", "zero_grad", place, advice.CLEARED)
        by_place: dict[Place, list[str]] = {}
        for leaf in optimizers.forgotten() if optimizers.given else ():
            by_place.setdefault(leaf.place or self.passes.places[-1], []).append(leaf.words)
        for place, names in by_place.items():
            op = ", ".join(dict.fromkeys(names))
            yield finding_at("not optimized", op, place, advice.NOT_OPTIMIZED)
        for place, made_by in self.tracer.special.orphans.items():
            yield finding_at("no leaf", "Tensor.grad", place, advice.no_leaf(made_by))

    def _left_alone(self, cuts: list[Site]) -> list[Finding]:
        """Numbers that left the graph first, the most suspicious of them first; then the rest."""
        if not self.passes.calls:
            cuts = []
        others = [site for site in self.watch.sites.all if site not in cuts and not site.quiet]
        numbers = sorted((s for s in others if s.number), key=suspicion_of, reverse=True)
        said = [set_aside(site, advice.NUMBER) for site in numbers if suspicion_of(site)[0] > 0]
        for site in others:
            if site.bit & self.watch.flow.straight_through:
                said.append(set_aside(site, advice.STRAIGHT_THROUGH))
            elif site.bit & self.passes.every and not site.number:
                said.append(set_aside(site, advice.STOPPED if site.explicit else advice.MASK))
        return said

    def _hints(self) -> Iterator[str]:
        if failures := self.tracer.failures:
            yield f"The tracer itself failed {len(failures)} time(s), at first with {failures[0]}"
        unused = [
            leaf.name
            for leaf in self.tracer.leaves.of_model
            if leaf.is_unused() and not any(site.behind & leaf.bit for site in self.found)
        ]
        if unused and self.passes.calls:
            listed = ", ".join(unused[:3]) + ", ..." * (len(unused) > 3)
            yield f"Not used where gradients are recorded: {listed}"
        optimizers = self.tracer.optimizers
        forgotten = [] if optimizers.given else optimizers.forgotten()
        if forgotten and any(leaf.stepped for leaf in self.tracer.leaves.of_model):
            listed = "; ".join(
                leaf.words + (f", line {leaf.place.lineno}" if leaf.place else "")
                for leaf in forgotten[:3]
            )
            yield f"Get a gradient, and no optimizer that made a step here holds them: {listed}"
        if optimizers.held_elsewhere():
            yield (
                "The optimizer holds no parameter of this model: was it made for a copy of it, or "
                "before the layers were replaced?"
            )
        if not self.passes.calls:
            yield (
                "No backward pass was seen: put loss.backward() into the block to see which cuts "
                "matter, and zeros and NaN."
            )
