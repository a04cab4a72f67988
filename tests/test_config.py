"""Settings: presets, overrides, and errors that say what to do."""

from pathlib import Path

import pytest
import yaml

from latentcodec.arguments import nearest
from train.config import TrainConfig, load_preset, parse_config, parse_config_dict, training_parser
from train.run_config import ConfigError

PRESETS = sorted(path.stem for path in Path("train/presets").glob("*.yaml"))


def test_every_preset_of_the_design_is_there() -> None:
    assert {"demo", "tiny", "small", "sd-f8d4", "ft-mse", "flux-f8d16"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_parses_and_round_trips(name: str) -> None:
    config = load_preset(name, "--seed", "5")
    assert config.seed == 5
    assert parse_config_dict(config.as_dict()) == config
    config.microbatch(processes=1)


def test_parity_preset_is_ldms(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_preset("sd-f8d4")
    assert config.optimizer.lr == pytest.approx(4.5e-6 * 12 * 2)
    assert config.adversarial.start == 50001
    assert config.loss.weights == {"l1": 1.0, "lpips": 1.0, "kl": 1e-6}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--loss.wieghts.l1", "1"], "unknown key `loss.wieghts.l1`; did you mean `loss.weights`?"),
        (["--stpes", "3"], "unknown key `stpes`; did you mean `steps`?"),
        (["--data.wrokers", "3"], "unknown key `data.wrokers`; did you mean `data.workers`?"),
        (["--steps", "many"], 'Parser key "steps"'),
        (["--adversarial.rule", "adaptve"], "Literal['constant', 'adaptive']"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_wrong_key_exits_with_two_and_one_reason(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config(["--data.source", "photos", *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_wrong_key_in_a_file_names_the_right_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": {"source": "photos", "corp": 64}}))
    with pytest.raises(SystemExit):
        parse_config(["--config", str(path)])
    assert "unknown key `data.corp`; did you mean `data.crop`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--loss.weights.lpisp", "1"], "loss.weights: expected one of .* found `lpisp`; did you mean `lpips`"),
        (["--adversarial.discriminator", "pach"], "adversarial.discriminator: expected one of .* did you mean `patch`"),
        (["--validation.metrics", "[pnsr]"], "validation.metrics: expected one of .* did you mean `psnr`"),
        (["--data.crop", "60"], "data.crop: expected a multiple of 8"),
        (["--data.source", ""], "data.source: no images named"),
        (["--steps", "0"], "steps: expected at least 1"),
        (["--loss.weights", "{l1: 0}"], "loss.weights: expected at least one term above 0"),
    ],
)
def test_wrong_value_names_field_and_remedy(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(["--data.source", "photos", *arguments])


def test_batch_that_does_not_divide_says_what_would() -> None:
    config = load_preset("tiny", "--batch_size", "10", "--accumulate", "2")
    with pytest.raises(
        ConfigError, match=r"processes x accumulate = 3 x 2 = 6; found 10. Use for example --batch_size 12"
    ):
        config.microbatch(processes=3)


def test_print_config_shows_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config(["--data.source", "photos", "--print_config"])
    assert stopped.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == {**TrainConfig(data=parse_config(["--data.source", "photos"]).data).as_dict()} | {
        "optimizer": shown["optimizer"]
    }
    assert "equivariance.probability" in training_parser().known_keys()


def test_changed_keys_are_those_that_weights_depend_on() -> None:
    config = load_preset("tiny")
    other = load_preset(
        "tiny", "--optimizer.lr", "0.5", "--data.workers", "7", "--log_every", "3", "--loss.weights.l1", "2"
    )
    assert other.changed_since(config.as_dict()) == {
        "optimizer.lr": (config.optimizer.lr, 0.5),
        "loss.weights.l1": (1.0, 2.0),
    }
    assert config.changed_since(config.as_dict()) == {}


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert nearest("lpisp", ["l1", "lpips"]) == "lpips"
    assert nearest("zzz", ["l1", "lpips"]) is None
