import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import (
    backward_in_parts,
    bernoulli_kl,
    frequency_penalty,
    pool_rows,
    smooth,
    straight_through_frequency,
)
from saetools.penalties import unbiased_eps

# Shapes of two to four dims, and which of them is the units.
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4).flatmap(
    lambda shape: st.tuples(st.just(tuple(shape)), st.integers(-len(shape), len(shape) - 1))
)


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_a_loop(z, units_dim, mask=None):
    """Place by place, in the order of the dims."""
    places = [size for dim, size in enumerate(z.shape) if dim != units_dim % z.ndim]
    rows = []
    for place in torch.cartesian_prod(*map(torch.arange, places)).reshape(-1, len(places)).tolist():
        index = list(place)
        index.insert(units_dim % z.ndim, slice(None))
        # A mask of size 1 in a dim holds for all of it.
        if mask is None or mask[tuple(i % n for i, n in zip(place, mask.shape, strict=True))]:
            rows.append(z[tuple(index)])
    return rows


@given(shape=shapes, seed=st.integers(0, 100))
def test_rows_are_those_of_a_loop_in_its_order(shape, seed):
    shape, units_dim = shape
    z = normal(shape, seed)
    assert torch.equal(pool_rows(z, units_dim=units_dim), torch.stack(by_a_loop(z, units_dim)))


@given(shape=shapes, seed=st.integers(0, 100), broadcast=st.lists(st.booleans(), min_size=4))
def test_so_they_are_with_a_mask_that_may_be_broadcast(shape, seed, broadcast):
    shape, units_dim = shape
    z = normal(shape, seed)
    places = [size for dim, size in enumerate(shape) if dim != units_dim % len(shape)]
    sizes = [1 if one else size for size, one in zip(places, broadcast, strict=False)]
    mask = normal(sizes, seed + 1) > 0
    rows = by_a_loop(z, units_dim, mask)
    expected = torch.stack(rows) if rows else z.new_empty(0, shape[units_dim])
    assert torch.equal(pool_rows(z, units_dim=units_dim, mask=mask), expected)


def penalty_and_slope(z, units_dim=-1, mask=None):
    leaf = z.clone().requires_grad_()
    penalty = frequency_penalty(pool_rows(leaf, units_dim=units_dim, mask=mask), rho=0.2)
    penalty.backward()
    return penalty.detach(), leaf.grad


def padded(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (6,), generator=generator)
    return normal((6, 7, 3), seed), torch.arange(7) < lengths[:, None]


@given(seed=st.integers(0, 1000))
def test_permuted_rows_leave_the_penalty_and_take_their_gradient_along(seed):
    z, mask = padded(seed)
    value, slope = penalty_and_slope(z, mask=mask)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    got = penalty_and_slope(z[order], mask=mask[order])
    torch.testing.assert_close(got, (value, slope[order]))


@given(seed=st.integers(0, 1000), more=st.integers(1, 9), fill=st.sampled_from([0.0, 9.0, -9.0]))
def test_more_padding_leaves_the_penalty(seed, more, fill):
    z, mask = padded(seed)
    value, slope = penalty_and_slope(z, mask=mask)
    longer = torch.cat([z, torch.full((6, more, 3), fill, dtype=z.dtype)], dim=1)
    got, got_slope = penalty_and_slope(
        longer, mask=torch.cat([mask, torch.zeros(6, more, dtype=torch.bool)], dim=1)
    )
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(got_slope[:, :7], slope)
    assert not got_slope[:, 7:].any()


@given(seed=st.integers(0, 1000), axes=st.permutations(range(4)))
def test_where_the_units_dim_is_does_not_matter(seed, axes):
    z = normal((4, 3, 2, 5), seed)  # units in dim 1
    value, slope = penalty_and_slope(z, units_dim=1)
    got, got_slope = penalty_and_slope(z.permute(axes), units_dim=axes.index(1))
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(got_slope, slope.permute(axes))


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_padding_reaches_neither_the_value_nor_the_gradient(garbage):
    z, mask = padded(0)
    value, slope = penalty_and_slope(z, mask=mask)
    got, got_slope = penalty_and_slope(z.where(mask[..., None], garbage), mask=mask)
    assert torch.equal(got, value)
    assert torch.equal(got_slope, slope)
    assert not got_slope[~mask].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_is_kept_and_memory_order_does_not_matter(dtype):
    maps = normal((4, 3, 5, 5)).to(dtype)
    rows = pool_rows(maps.to(memory_format=torch.channels_last), units_dim=1)
    assert rows.dtype == dtype
    assert torch.equal(rows, pool_rows(maps, units_dim=1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pre_activations": [[1.0]]}, TypeError, r"pre_activations must be a torch\.Tensor"),
        ({"pre_activations": torch.ones(4)}, ValueError, r"at least 2 dims, got shape \(4,\)"),
        ({"pre_activations": torch.ones(2, 0)}, ValueError, r"must not be empty"),
        ({"pre_activations": torch.ones(2, 3).int()}, TypeError, r"floating dtype"),
        ({"units_dim": 3}, ValueError, "units_dim must be at most 2, got 3"),
        ({"units_dim": -4}, ValueError, "units_dim must be at least -3, got -4"),
        ({"units_dim": True}, TypeError, "units_dim must be an int, got True"),
        ({"units_dim": None}, TypeError, "units_dim must be an int, got None"),
        ({"mask": [True]}, TypeError, r"mask must be a torch\.Tensor, got list"),
        (
            {"mask": torch.ones(4, 5)},
            TypeError,
            r"dtype torch\.bool, got .*float32: use mask\.bool",
        ),
        ({"mask": torch.ones(4).bool()}, ValueError, r"same size or 1: \(4, 5\), got \(4,\)"),
        ({"mask": torch.ones(5, 4).bool()}, ValueError, r"\(4, 5\), got \(5, 4\)"),
        ({"mask": torch.ones(4, 5, 3).bool()}, ValueError, r"\(4, 5\), got \(4, 5, 3\)"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pool_rows(**({"pre_activations": torch.ones(4, 5, 3), "units_dim": -1} | arguments))


def test_a_part_that_is_padding_alone_counts_for_nothing():
    model, z = torch.nn.Linear(3, 3), normal((4, 6, 3)).float()
    mask = torch.ones(4, 6).bool()
    mask[2:] = False

    def loss(part, batch_mean):
        rows = pool_rows(model(part[0]), units_dim=-1, mask=part[1])
        return frequency_penalty(rows, rho=0.2, batch_mean=batch_mean)

    whole = frequency_penalty(model(z[:2]), rho=0.2)
    parts = zip(z.split(2), mask.split(2), strict=True)
    torch.testing.assert_close(backward_in_parts(model, parts, loss), whole.detach())
    slope = torch.autograd.grad(whole, model.weight)[0]
    torch.testing.assert_close(model.weight.grad, slope)
    with pytest.raises(ValueError, match="pre_activations must not be empty"):
        frequency_penalty(pool_rows(z, units_dim=-1, mask=mask & False), rho=0.2)


def test_which_dim_holds_the_units_is_always_said():
    with pytest.raises(TypeError, match="units_dim"):
        pool_rows(torch.ones(4, 3))


@pytest.fixture
def compiled():
    torch.compiler.reset()
    yield lambda function, one: torch.compile(function, backend="eager", fullgraph=one)
    torch.compiler.reset()


@pytest.mark.slow
def test_without_a_mask_it_compiles_as_one_graph_and_with_one_it_compiles(compiled):
    z, mask = padded(0)
    for arguments, one in (({}, True), ({"mask": mask}, False)):

        def penalty(z, arguments=arguments):
            return frequency_penalty(pool_rows(z, units_dim=-1, **arguments), rho=0.2)

        torch.testing.assert_close(compiled(penalty, one)(z), penalty(z))


@pytest.mark.slow
def test_a_weighted_mean_is_the_same_and_compiles_as_one_graph(compiled):
    z, mask = padded(0)
    mask[0, 0] = True
    eps = unbiased_eps(0.2, int(mask.sum()))

    def penalty(z, mask):
        rows = z.where(mask[..., None], 0.0).flatten(0, -2)
        weights = mask.flatten()[:, None] / mask.sum()
        rho_hat = (weights * straight_through_frequency(rows[:, None], 0.3)).sum(0)
        return bernoulli_kl(smooth(rho_hat, eps), rho=0.2).sum()

    expected, slope = penalty_and_slope(z, mask=mask)
    leaf = z.where(mask[..., None], torch.nan).requires_grad_()
    got = compiled(penalty, True)(leaf, mask)
    got.backward()
    torch.testing.assert_close(got.detach(), expected)
    torch.testing.assert_close(leaf.grad, slope)
