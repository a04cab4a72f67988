"""Signals of a run, the learning-rate schedule and the plan of each step."""

import itertools
import math

import pytest
import torch
from accelerate import Accelerator

from train.config import AdversarialConfig, load_preset
from train.ema import Ema
from train.health import Meter, NonFiniteLossError, Watch
from train.run_config import OptimizerConfig
from train.schedule import gan_weight, learning_rate, plan_step
from train.step import latent_signals


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_meter_averages_and_forgets(accelerator: Accelerator) -> None:
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"l1": torch.tensor(value)})
    meter.add({"kl": torch.tensor(5.0)})
    assert meter.averages(accelerator) == pytest.approx({"l1": 3.0, "kl": 5.0})
    assert meter.averages(accelerator) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_names_step_and_images(value: float, accelerator: Accelerator) -> None:
    meter = Meter()
    meter.add_loss(6, torch.tensor(1.0), ["good.jpg"])
    meter.check_finite(accelerator)
    meter.add_loss(7, torch.tensor(value), ["a.jpg", "b.jpg"])
    meter.add_loss(8, torch.tensor(value), ["c.jpg"])
    with pytest.raises(NonFiniteLossError, match=rf"became {value} at step 7 on the images a.jpg, b.jpg"):
        meter.check_finite(accelerator)
    meter.check_finite(accelerator)


def test_discriminator_that_won_is_said_once() -> None:
    watch = Watch(latent_channels=4)
    won = {"accuracy_real": 0.99, "accuracy_fake": 0.98}
    said = [watch.look(won) for _ in range(5)]
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0]
    assert "the discriminator has won" in said[2][0]
    assert watch.look({"accuracy_real": 0.7, "accuracy_fake": 0.7}) == []


def test_collapse_is_said_in_words() -> None:
    watch = Watch(latent_channels=4)
    assert watch.look({"active_channels": 4.0, "posterior_std": 0.01}) == []
    (line,) = watch.look({"active_channels": 1.0, "posterior_std": 0.9})
    assert "1.0 of 4 channels" in line
    assert "loss.weights.kl" in line


def test_latent_signals_tell_a_collapsed_posterior() -> None:
    alive = latent_signals(torch.randn(4, 6, 8, 8), torch.full((4, 6, 8, 8), -12.0))
    dead = latent_signals(torch.zeros(4, 6, 8, 8), torch.zeros(4, 6, 8, 8))
    assert (alive["active_channels"], dead["active_channels"]) == (6, 0)
    assert alive["posterior_std"] < 0.01
    assert dead["posterior_std"] == 1


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimizerConfig(lr=1.0, warmup=10, schedule="cosine", final_lr=0.1)
    rates = [learning_rate(config, 1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    constant = OptimizerConfig(lr=1.0, warmup=0, schedule="constant")
    assert {learning_rate(constant, 1.0, step, 100) for step in range(100)} == {1.0}


def test_gan_comes_after_the_head_start() -> None:
    config = AdversarialConfig(discriminator="patch", weight=0.2, start=100, head_start=50, ramp=100)
    assert [gan_weight(config, step) for step in (0, 149, 150, 200, 250, 900)] == pytest.approx(
        [0, 0, 0, 0.1, 0.2, 0.2]
    )
    assert gan_weight(AdversarialConfig(weight=0.2), 900) == 0


def test_plan_is_a_function_of_the_step() -> None:
    config = load_preset("tiny", "--equivariance.probability", "0.5", "--equivariance.start", "10")
    plans = [plan_step(config, step) for step in range(200)]
    assert plans == [plan_step(config, step) for step in range(200)]
    assert all(plan.transform is None for plan in plans[:10])
    drawn = [plan.transform for plan in plans[10:] if plan.transform is not None]
    assert 70 < len(drawn) < 120
    assert {transform.quarter_turns for transform in drawn} == {0, 1, 2, 3}
    assert all(8 <= transform.scale_32nds < 32 for transform in drawn)
    upright = load_preset("tiny", "--equivariance.probability", "1", "--equivariance.turns", "false")
    found = [plan_step(upright, step).transform for step in range(50)]
    assert {transform.quarter_turns for transform in found if transform is not None} == {0}


def test_r1_is_lazy() -> None:
    config = load_preset(
        "tiny", "--adversarial.discriminator", "patch", "--adversarial.r1", "0.5", "--adversarial.r1_every", "4"
    )
    weights = [plan_step(config, step).r1_weight for step in range(8)]
    assert weights == [2.0, 0, 0, 0, 2.0, 0, 0, 0]


def test_ema_is_the_weighted_mean() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    ema = Ema(network, decay=0.5)
    expected = 1.0
    for step, value in enumerate((3.0, -1.0, 4.0)):
        network.weight.data.fill_(value)
        ema.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert ema.model.weight.item() == pytest.approx(expected)
    assert not ema.model.weight.requires_grad
