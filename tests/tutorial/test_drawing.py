import pytest
import torch

from saetools.tutorial.drawing import (
    COLOURS,
    CUT,
    arrivals,
    cut_at,
    draw_network,
    draw_spreads,
)
from saetools.tutorial.plots import new_figure, show


def path(count, keep=lambda rho_hat: rho_hat, *, dead=False):
    generator = torch.Generator().manual_seed(0)
    z = (torch.randn(16, 4, generator=generator) - 50 * dead).requires_grad_()
    on = count(z)
    mean = on.float().mean(0)
    kept = keep(mean)
    return {"z": z, "count": on, "mean": mean, "kept": kept, "sum": kept.sum()}


def inside(rho_hat):
    return rho_hat.clamp(0.001, 0.999)


PATHS = {  # what arrives at z, and where it stops
    "comparison": (path(lambda z: z > 0), "none", "count"),
    "sigmoid": (path(torch.sigmoid), "some", None),
    "flat": (path(lambda z: z.sign()), "zero", "count"),
    "detached": (path(torch.sigmoid, lambda r: r.detach()), "none", "kept"),
    "joined too late": (path(lambda z: z > 0, lambda r: r.requires_grad_()), "none", "mean"),
    "clamp, alive": (path(lambda z: z.clamp(0, 1), inside), "some", None),
    "clamp, dead": (path(lambda z: torch.sigmoid(z / 5), inside, dead=True), "zero", "kept"),
}


@pytest.mark.parametrize(("stages", "arrives", "cut"), PATHS.values(), ids=list(PATHS))
def test_the_place_of_the_cut_is_computed(stages, arrives, cut):
    assert arrivals(stages)["z"] == arrives
    assert cut_at(stages) == cut


@pytest.mark.parametrize(("stages", "arrives", "cut"), PATHS.values(), ids=list(PATHS))
def test_the_drawing_and_its_text_show_the_cut(stages, arrives, cut):
    _, [ax] = new_figure()
    text = draw_network(ax, {"the path": stages})
    words = {text.get_text() for text in ax.texts}
    crosses = [line for line in ax.lines if line.get_marker() == "X"]
    assert len(crosses) == (cut is not None)
    assert ("cut" in words, "only zeros" in words) == (arrives == "none", arrives == "zero")
    says = {"some": "arrives at z", "none": f"cut at {cut}", "zero": "nothing but zeros"}
    assert says[arrives] in text
    framed = [box.get_edgecolor() for box in ax.patches]
    assert (len(set(framed)) == 3) == (cut is not None)  # black, grey, and that of a cut


def test_a_stage_that_the_next_one_does_not_use_is_refused():
    z = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="relu must be the tensor from which the next stage"):
        arrivals({"z": z, "relu": z.relu(), "mean": z.relu().mean()})


def test_a_gradient_is_drawn_for_each_step_on_which_there_is_one():
    def dashed(stages):
        _, [ax] = new_figure()
        draw_network(ax, {"path": stages})
        arrows = [text.arrow_patch for text in ax.texts if getattr(text, "arrow_patch", None)]
        return sum(arrow.get_linestyle() == "--" for arrow in arrows)

    network = dashed(PATHS["comparison"][0])
    assert dashed(PATHS["sigmoid"][0]) - network == 4
    assert dashed(PATHS["clamp, dead"][0]) - network == 1


def test_a_drawing_without_gradients_does_not_tell():
    _, [ax] = new_figure()
    text = draw_network(ax, {"path": PATHS["comparison"][0]}, gradients=False)
    assert "gradient" not in text
    assert "Path path: z, count, mean, kept, sum." in text
    assert not [line for line in ax.lines if line.get_marker() == "X"]
    assert not [word for word in ax.texts if "gradient" in word.get_text()]


def test_a_drawing_needs_a_title_and_no_labels():
    figure, [ax] = new_figure()
    text = draw_network(ax, {"path": PATHS["sigmoid"][0]})
    with pytest.raises(ValueError, match="must have a title"):
        show(figure, text)
    ax.set_title("A finding")
    show(figure, text)


def test_colours_differ():
    assert len({*COLOURS.values(), CUT}) == len(COLOURS) + 1


def test_spreads_are_filled_from_0_on_and_labelled():
    _, [ax] = new_figure()
    draw_spreads(ax, {0.1: 0.0, 2: 0.13, 5: 0.19}, rho=0.2)
    assert [text.get_text().split()[-1] for text in ax.texts[:3]] == ["0.00", "0.13", "0.19"]
    peaks = [line.get_xdata()[line.get_ydata().argmax()] for line in ax.lines[:3]]
    assert peaks[0] == pytest.approx(torch.logit(torch.tensor(0.2)).item(), abs=0.02)
    assert peaks[0] > peaks[1] > peaks[2]
