from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from math import isnan, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfml.learners.network import Parameters
from dfml.training.alignment import joint, mean_cosine, member_gradients, regularised, sequential

FEATURES, HIDDEN, WAY = 4, 5, 3


def start(seed: int = 0) -> Parameters:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"first.weight": (HIDDEN, FEATURES), "first.bias": (HIDDEN,), "last.weight": (WAY, HIDDEN)}
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}


def member_loss(seed: int) -> Callable[[Parameters], Tensor]:
    """Cross-entropy of a smooth network on data that depends on the seed."""
    draw = torch.Generator().manual_seed(100 + seed)
    inputs = torch.randn(12, FEATURES, generator=draw, dtype=torch.float64)
    labels = torch.randint(WAY, (12,), generator=draw)

    def loss(parameters: Parameters) -> Tensor:
        hidden = torch.tanh(functional.linear(inputs, parameters["first.weight"], parameters["first.bias"]))
        return functional.cross_entropy(functional.linear(hidden, parameters["last.weight"]), labels)

    return loss


def flat(parameters: Parameters) -> Tensor:
    return torch.cat([parameters[name].flatten() for name in start()])


def explicit_gradient(losses: list[Callable[[Parameters], Tensor]], weight: float) -> Tensor:
    """Gradient of sum_i L_i - weight * sum_{i<j} <g_i, g_j>, differentiated twice."""
    leaves = {name: value.requires_grad_() for name, value in start().items()}
    values = [loss(leaves) for loss in losses]
    gradients = [torch.autograd.grad(value, list(leaves.values()), create_graph=True) for value in values]
    vectors = [torch.cat([part.flatten() for part in each]) for each in gradients]
    products = sum(one @ other for one, other in combinations(vectors, 2))
    found = torch.autograd.grad(sum(values) - weight * products, list(leaves.values()))
    return torch.cat([part.flatten() for part in found])


def remainder(members: int, step: float, share: float) -> float:
    """|mean over all orders of (theta - theta~) - step * gradient of the objective weighted with share * step|."""
    losses = [member_loss(index) for index in range(members)]
    travelled = [
        flat(sequential(start(), order, lr=step, optimiser="sgd").pseudo_gradient) for order in permutations(losses)
    ]
    explicit = step * explicit_gradient(losses, share * step)
    return float((torch.stack(travelled).mean(0) - explicit).norm())


@pytest.mark.parametrize("members", [3, 4])
@pytest.mark.numeric
def test_sequential_steps_descend_the_losses_minus_half_a_step_of_pairwise_inner_products(members: int) -> None:
    for step in (0.02, 0.01):
        assert 7 < remainder(members, step, 0.5) / remainder(members, step / 2, 0.5) < 9
        for wrong in (0.0, 0.25, 1.0, -0.5):  # any other weight leaves a second-order term
            assert 3 < remainder(members, step, wrong) / remainder(members, step / 2, wrong) < 5


@pytest.mark.numeric
def test_order_matters_at_second_order() -> None:
    losses = [member_loss(index) for index in range(2)]

    def gap(step: float) -> float:
        one, other = (sequential(start(), order, lr=step, optimiser="sgd") for order in (losses, losses[::-1]))
        return float((flat(one.pseudo_gradient) - flat(other.pseudo_gradient)).norm())

    assert gap(0.01) > 0
    assert 3.8 < gap(0.01) / gap(0.005) < 4.2


@pytest.mark.parametrize(
    ("optimiser", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)], ids=["sgd", "adam"]
)
@pytest.mark.numeric
def test_equals_a_plain_loop_with_one_optimiser_for_all_members(
    optimiser: str, kind: type[torch.optim.Optimizer]
) -> None:
    losses, before = [member_loss(index) for index in range(4)], start()
    for _ in range(2):  # the optimiser's state is new in every pass
        found = sequential(before, losses, lr=0.01, optimiser=optimiser)  # type: ignore[arg-type]
        point = {name: value.requires_grad_() for name, value in start().items()}
        plain, expected = kind(point.values(), lr=0.01), []  # type: ignore[call-arg]
        for loss in losses:
            plain.zero_grad()
            expected.append(loss(point))
            expected[-1].backward()
            plain.step()
        torch.testing.assert_close(found.losses, torch.stack(expected).detach())
        torch.testing.assert_close(flat(found.pseudo_gradient), flat(start()) - flat(point).detach())


def test_the_members_of_a_pass_share_the_state_of_adam() -> None:
    losses = [member_loss(index) for index in range(2)]
    both = flat(sequential(start(), losses, lr=0.01).pseudo_gradient)
    first = sequential(start(), losses[:1], lr=0.01).pseudo_gradient
    moved = {name: value - first[name] for name, value in start().items()}
    alone = flat(first) + flat(sequential(moved, losses[1:], lr=0.01).pseudo_gradient)
    assert (both - alone).abs().max() > 1e-3


def test_parameters_and_other_tensors_of_the_losses_are_not_changed() -> None:
    before, images = {name: value.requires_grad_() for name, value in start().items()}, torch.ones(1).requires_grad_()
    plain = [member_loss(index) for index in range(3)]
    losses = [lambda point, of=of: images.double().sum() * of(point) for of in plain]
    with torch.no_grad():  # the caller's gradient mode has no effect
        updates = [
            sequential(before, losses, lr=0.1, optimiser="sgd"),
            sequential(before, losses, lr=0.1, optimiser="adam"),
            joint(before, losses, lr=0.1, optimiser="sgd"),
            joint(before, losses, lr=0.1, optimiser="adam"),
        ]
        mean_cosine(member_gradients(before, losses)[0])
    assert images.grad is None
    assert all(torch.equal(value, start()[name]) and value.grad is None for name, value in before.items())
    for update in updates:
        assert not any(tensor.requires_grad for tensor in [*update.pseudo_gradient.values(), update.losses])
        assert {n: v.shape for n, v in update.pseudo_gradient.items()} == {n: v.shape for n, v in before.items()}


@pytest.mark.numeric
def test_joint_is_the_sum_of_gradients_times_the_learning_rate() -> None:
    losses = [member_loss(index) for index in range(4)]
    leaves = {name: value.requires_grad_() for name, value in start().items()}
    mean = sum(loss(leaves) for loss in losses) / 4
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(mean, list(leaves.values()))])
    found = joint(start(), losses, lr=0.01, optimiser="sgd")
    torch.testing.assert_close(flat(found.pseudo_gradient), 0.01 * 4 * gradient)
    torch.testing.assert_close(found.losses.mean(), mean.detach())
    assert torch.equal(found.losses, torch.stack([loss(start()) for loss in losses]))

    def gap(step: float) -> float:
        in_turn = sequential(start(), losses, lr=step, optimiser="sgd").pseudo_gradient
        return float((flat(in_turn) - flat(joint(start(), losses, lr=step, optimiser="sgd").pseudo_gradient)).norm())

    assert 3.5 < gap(0.01) / gap(0.005) < 4.5  # they differ by a term of second order


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_joint_and_sequential_updates_differ_by_nothing_but_where_the_gradients_are_taken(optimiser: Any) -> None:
    slopes = [{name: torch.full_like(value, index + 1.0) for name, value in start().items()} for index in range(3)]
    linear = [
        lambda point, slope=slope: sum(
            (point[name] * slope[name]).sum() for name in point
        )  # the same gradient anywhere
        for slope in slopes
    ]
    together, in_turn = (update(start(), linear, lr=0.01, optimiser=optimiser) for update in (joint, sequential))
    torch.testing.assert_close(flat(together.pseudo_gradient), flat(in_turn.pseudo_gradient))
    curved = [member_loss(index) for index in range(3)]
    together, in_turn = (update(start(), curved, lr=0.01, optimiser=optimiser) for update in (joint, sequential))
    assert not torch.allclose(flat(together.pseudo_gradient), flat(in_turn.pseudo_gradient))


def test_parameters_that_a_loss_does_not_use_are_not_changed() -> None:
    parameters = {"used": torch.ones(2), "other": torch.ones(3)}
    losses = [lambda point: point["used"].sum()]
    for optimiser in ("sgd", "adam"):
        update = sequential(parameters, losses, lr=0.1, optimiser=optimiser)  # type: ignore[arg-type]
        assert torch.equal(update.pseudo_gradient["other"], torch.zeros(3))
        torch.testing.assert_close(update.pseudo_gradient["used"], torch.full((2,), 0.1))
    assert torch.equal(joint(parameters, losses, lr=0.1).pseudo_gradient["other"], torch.zeros(3))


def test_mean_cosine_of_known_gradients() -> None:
    def gradients(*vectors: tuple[float, float]) -> list[Parameters]:
        """Gradients of two parameters: the cosine is over all of them together."""
        return [{"a": torch.tensor([float(x)]), "b": torch.tensor([[float(y)]])} for x, y in vectors]

    assert mean_cosine(gradients((1, 0), (0, 5))) == pytest.approx(0)
    assert mean_cosine(gradients((1, 2), (3, 6), (10, 20))) == pytest.approx(1)
    assert mean_cosine(gradients((1, 0), (-3, 0))) == pytest.approx(-1)
    assert mean_cosine(gradients((1, 0), (0, 2), (1, 1))) == pytest.approx(sqrt(2) / 3)
    assert mean_cosine(gradients((1, 0), (0, 0))) == 0
    assert isnan(mean_cosine(gradients((1, 0))))


@pytest.mark.numeric
def test_following_the_sequential_update_aligns_gradients_more_than_the_joint_one() -> None:
    losses = [member_loss(index) for index in range(3)]
    cosines = {}
    for name in ("sequential", "joint"):
        parameters = start()
        for iteration in range(40):
            order = torch.randperm(3, generator=torch.Generator().manual_seed(iteration)).tolist()
            in_order = [losses[index] for index in order]
            update = (
                sequential(parameters, in_order, lr=3.0, optimiser="sgd")
                if name == "sequential"
                else joint(parameters, in_order, lr=3.0, optimiser="sgd")
            )
            parameters = {key: value - 0.07 * update.pseudo_gradient[key] for key, value in parameters.items()}
        cosines[name] = mean_cosine(member_gradients(parameters, losses)[0])
    assert cosines["sequential"] > cosines["joint"] + 0.03  # at least 0.1 over seeds


def test_the_regularised_gradient_is_that_of_the_mean_loss_and_the_variance_of_the_gradients() -> None:
    """To first order in the weight: what remains shrinks with its square."""
    losses = [member_loss(index) for index in range(3)]

    def remains(weight: float) -> float:
        leaves = {name: value.requires_grad_() for name, value in start().items()}
        gradients = [torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True) for loss in losses]
        vectors = torch.stack([torch.cat([part.flatten() for part in each]) for each in gradients])
        variance = (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()
        mean = torch.stack([loss(leaves) for loss in losses]).mean()
        found = torch.autograd.grad(mean + weight / 2 * variance, list(leaves.values()))
        exact = torch.cat([part.flatten() for part in found])
        return float((flat(regularised(start(), losses, weight=weight).pseudo_gradient) - exact).norm())

    assert remains(0.0) < 1e-12
    assert remains(0.02) < 0.3 * remains(0.04) < 0.09 * remains(0.08)


def test_one_member_has_no_variance() -> None:
    plain, other = (regularised(start(), [member_loss(0)], weight=weight) for weight in (0.0, 1.0))
    torch.testing.assert_close(flat(plain.pseudo_gradient), flat(other.pseudo_gradient))
