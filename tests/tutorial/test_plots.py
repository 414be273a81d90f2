import base64

import pytest
import torch

from saetools.tutorial.plots import (
    STYLES,
    new_figure,
    plot_changes,
    plot_frequencies,
    plot_groups,
    plot_pictures,
    plot_runs,
    show,
)

ALT = "Frequencies of 32 units; 5 are within 0.02 of the target."


def labelled_figure():
    figure, [ax] = new_figure()
    ax.set(title="A finding", xlabel="x (units)", ylabel="y (units)")
    return figure, ax


def test_shown_pictures_carry_their_text_twice(monkeypatch):
    figure, _ = labelled_figure()
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append((data, more)))
    show(figure, ALT.replace(" ", "\n"))
    [(data, more)] = shown
    assert data["text/plain"] == ALT
    assert more == {"metadata": {"image/png": {"alt": ALT}}, "raw": True}
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_a_figure_without_text_title_or_labels_is_not_shown():
    figure, ax = labelled_figure()
    with pytest.raises(ValueError, match="alt must say what the figure shows, got 'a plot'"):
        show(figure, "a plot")
    ax.set_xlabel("")
    with pytest.raises(ValueError, match="title and two labels"):
        show(figure, ALT)


def test_points_lines_and_target_are_where_the_data_are():
    _, [ax] = new_figure()
    before, after = torch.rand(2, 4), torch.rand(2, 4)
    plot_frequencies(ax, {"before": before, "after": after}, rho=0.3)
    assert ax.lines[0].get_ydata() == pytest.approx(before.flatten().tolist())
    assert ax.lines[1].get_ydata() == pytest.approx(after.flatten().tolist())
    assert set(ax.lines[2].get_ydata()) == {0.3}


def test_groups_differ_in_marker_as_well_as_in_colour():
    _, [ax] = new_figure()
    plot_groups(ax, {"a": torch.rand(3), "b": torch.rand(1)})
    assert len({line.get_marker() for line in ax.lines}) == 2
    assert len({line.get_color() for line in ax.lines}) == 2
    for what in ("color", "marker", "linestyle"):
        assert len({style[what] for style in STYLES}) == len(STYLES) == 7


def test_runs_show_each_run_and_the_median():
    _, [ax] = new_figure()
    runs = torch.rand(5, 7)
    plot_runs(ax, range(7), {"posted": runs}, log=True)
    assert len(ax.lines) == 6
    assert ax.lines[-1].get_ydata() == pytest.approx(runs.median(0).values.tolist())
    assert ax.get_yscale() == "log"


def test_changes_join_each_unit_with_itself():
    _, [ax] = new_figure()
    before, after = torch.rand(2, 4), torch.rand(2, 4)
    plot_changes(ax, before, after, {"low": before < 2})
    joined = torch.tensor([list(line.get_ydata()) for line in ax.lines], dtype=torch.float32)
    torch.testing.assert_close(joined, torch.stack([before.flatten(), after.flatten()], -1))
    assert {line.get_color() for line in ax.lines} == {STYLES[0]["color"]}


def test_pictures_stand_in_rows_each_with_its_own_contrast():
    _, [ax] = new_figure()
    pictures = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.5], [0.0] * 4])
    shown = torch.as_tensor(plot_pictures(ax, pictures, columns=2).images[0].get_array())
    assert shown.shape == (6, 6)
    assert shown[1:3, 1:3].tolist() == [[1, 0], [0, -1]]
    assert shown[1:3, 4:6].tolist() == [[0, 0], [0, 1]]
    assert shown[4:6, 1:3].eq(0).all()
    assert shown[4:6, 4:6].eq(1).all()  # no fourth
