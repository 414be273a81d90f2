import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from saetools.tutorial.elsewhere import accuracy, cross_entropy, digits, fit, stacked_layers


def error(layers, data):
    w, b = layers

    def loss(index):
        return cross_entropy(data.train[index] @ w + b, data.labels[index])

    return loss


def test_the_test_rows_are_no_training_rows():
    data = digits()
    assert 0 <= data.train.min() < data.train.max() <= 1
    assert not (data.test[:, None] == data.train).all(-1).any()
    assert torch.bincount(data.test_labels).min() > 30


def test_networks_trained_together_are_those_trained_alone_in_their_order():
    data, orders = digits(), []

    together = stacked_layers((64, 10), [3, 4])
    fit(
        together,
        1297,
        error(together, data),
        steps=12,
        after=lambda step, index, adam: orders.append(index),
    )
    weight, bias = (p.detach()[1].clone() for p in stacked_layers((64, 10), [3, 4]))
    alone = nn.ParameterList([weight, bias[0]])
    adam = torch.optim.Adam(alone.parameters(), lr=5e-3)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=12)
    for index in orders:
        rows = index[1]
        adam.zero_grad()
        F.cross_entropy(data.train[rows] @ alone[0] + alone[1], data.labels[rows]).backward()
        adam.step()
        falling.step()
    torch.testing.assert_close(together[0][1], alone[0], atol=1e-5, rtol=1e-4)
    first = torch.cat(orders[:10], 1)
    assert all(len(set(row.tolist())) == 1280 for row in first)  # once each before any again
    assert not torch.equal(first[0], first[1])


def test_training_helps_and_accuracy_says_so():
    data = digits()
    layers = stacked_layers((64, 10), range(2))

    def measured():
        return accuracy(data.test @ layers[0] + layers[1], data.test_labels)

    before = measured()
    fit(layers, 1297, error(layers, data), steps=100, lr=2e-2)
    assert (before < 0.4).all()
    assert (measured() > 0.85).all()
    assert measured().shape == (2,)
