"""Help, printed configurations and messages of the console script."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import run_command_line, write_config

from lightning_vi import RankOneVI
from lightning_vi.arguments import accepted_arguments
from lightning_vi.cli.method_help import options_text, plain_defaults
from lightning_vi.cli.parser import explain

Output = Callable[..., str]


def test_help_lists_the_options_of_each_method(printed: Output) -> None:
    text = printed("fit", "--help")
    assert "MeanFieldVI: stochastic_module_names, prior" in text
    assert "RankOneVI: num_components, component_std" in text


def test_help_describes_the_options_of_the_method_of_a_configuration(printed: Output, tmp_path: Path) -> None:
    text = printed("fit", "--config", write_config(tmp_path, RankOneVI), "--help")
    for option in ("burnin_epochs", "kl_weight", "num_components"):
        _, _, rest = text.partition(f"  --model.{option}\n")
        default = plain_defaults(RankOneVI)[option]
        assert f"(default: {default})" in " ".join(rest.partition("  --model.")[0].split())


def test_every_option_has_a_description() -> None:
    text = options_text("lightning_vi.RankOneVI")
    blocks = text.split("  --model.")[1:]
    assert len(blocks) == len(accepted_arguments(RankOneVI))
    assert all(len(block.split("\n")[1].split()) > 3 for block in blocks)


def test_a_printed_configuration_has_all_options_of_the_method(printed: Output, tmp_path: Path) -> None:
    first = printed("fit", "--config", write_config(tmp_path, RankOneVI), "--print_config")
    options = yaml.safe_load(first)["model"]["init_args"]
    defaults = plain_defaults(RankOneVI)
    assert {name: options[name] for name in defaults} == defaults
    assert {"kl_weight", "burnin_epochs", "optimizer"} <= defaults.keys()
    (tmp_path / "printed.yaml").write_text(first)
    assert printed("fit", "--config", str(tmp_path / "printed.yaml"), "--print_config") == first


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("--model.kl_wait=1", "did you mean kl_weight?"),
        ("--model.backbone.n_hiden=[3]", "did you mean n_hidden?"),
        ("--data.batchsize=3", "did you mean batch_size?"),
        ("--trainer.maxepochs=3", "did you mean max_epochs?"),
        ("--model=MeanFeeldVI", "did you mean MeanFieldVI?"),
    ],
)
def test_a_misspelled_key_is_answered_in_one_line(argument: str, meant: str, printed: Output, tmp_path: Path) -> None:
    message = printed("fit", "--config", write_config(tmp_path), argument, status=2)
    assert message.startswith("lightning-vi fit: error: ")
    assert meant in message
    assert message.count("\n") == 1


def test_there_is_no_advice_without_a_similar_word() -> None:
    message = "class_path 'lightning_vi.MeanFieldVI': Option 'zzz' is not accepted"
    assert explain(message) == "lightning_vi.MeanFieldVI: Option 'zzz' is not accepted"
    assert explain("something\n  else") == "something else"


def test_a_misspelled_key_of_a_file_is_answered_too(printed: Output, tmp_path: Path) -> None:
    path = Path(write_config(tmp_path))
    content = yaml.safe_load(path.read_text())
    content["model"]["init_args"]["kl_wait"] = 1
    path.write_text(yaml.safe_dump(content))
    message = printed("fit", "--config", str(path), status=2)
    said = "lightning_vi.MeanFieldVI: Option 'kl_wait' is not accepted: did you mean kl_weight?"
    assert message == f"lightning-vi fit: error: {said}\n"


def test_a_network_of_the_wrong_width_leaves_no_log(printed: Output, tmp_path: Path) -> None:
    message = printed("fit", "--config", write_config(tmp_path), "--model.backbone.n_inputs=9", status=2)
    assert "build the network with n_inputs=1" in message
    assert not (tmp_path / "run").exists()


def test_plot_draws_the_last_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    run_command_line(monkeypatch, "fit", "--config", config)
    run_command_line(monkeypatch, "plot", "--config", config)
    names = {path.stem for path in (tmp_path / "run" / "version_0" / "plots").glob("*.png")}
    assert names == {"predictions", "observed", "calibration", "pit", "error", "selective", "objective"}
