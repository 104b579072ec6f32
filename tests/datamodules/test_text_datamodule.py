"""Toy texts, batches as those of Hugging Face, padding, and fits from the data to a checkpoint."""

from collections import UserDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, quiet_trainer
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, RandomSampler

from lightning_vi import DeepEnsemble, Laplace, LastLayerVI, MCDropout, MeanFieldVI, TemperatureScaling
from lightning_vi.backbones import TextTransformer
from lightning_vi.core.batch import sample_weight, split_batch, split_labeled_batch
from lightning_vi.datamodules import ToyTextDataModule
from lightning_vi.likelihoods import Categorical

METHODS: dict[str, Callable[..., Any]] = {
    "MeanFieldVI": partial(MeanFieldVI, num_mc_samples_test=4),
    "LastLayerVI": partial(LastLayerVI, num_mc_samples_test=4),
    "Laplace": partial(Laplace, num_mc_samples_test=4),
    "MCDropout": partial(MCDropout, num_mc_samples_test=4),
    "DeepEnsemble": partial(DeepEnsemble, num_members=2),
}
TOKENS, MASK = torch.tensor([[1, 5, 0], [1, 6, 7]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
LABELS = torch.tensor([0, 1])


class Encoding(UserDict[str, Any]):
    """As BatchEncoding of transformers: a mapping that is no dictionary."""


@pytest.mark.parametrize("kind", [dict, Encoding])
def test_labels_are_the_target_and_all_else_is_input(kind: Any) -> None:
    batch = kind({"input_ids": TOKENS, "attention_mask": MASK, "labels": LABELS})
    x, target = split_labeled_batch(batch)
    assert target is LABELS
    assert x == {"input_ids": TOKENS, "attention_mask": MASK}
    del batch["labels"]
    assert split_batch(batch) == ({"input_ids": TOKENS, "attention_mask": MASK}, None)
    weight = torch.tensor([1.0, 2.0])
    weighted = kind({"pixel_values": TOKENS, "labels": LABELS, "weight": weight})
    assert split_batch(weighted) == ({"pixel_values": TOKENS}, LABELS)
    assert sample_weight(weighted) is weight


def test_unclear_dictionaries_are_refused() -> None:
    for batch in ({"tokens": TOKENS}, {"input_ids": TOKENS, "target": LABELS}, {"labels": LABELS}):
        with pytest.raises(TypeError, match=r"a mapping with the keys"):
            split_batch(batch)
    with pytest.raises(TypeError, match="this step needs targets"):
        split_labeled_batch({"input_ids": TOKENS, "attention_mask": MASK})


def make_network(dropout_p: float = 0.1) -> TextTransformer:
    return TextTransformer(50, 3, width=8, dropout_p=dropout_p)


@pytest.mark.parametrize("name", METHODS)
def test_from_a_fit_to_a_checkpoint(name: str, tmp_path: Path) -> None:
    dm, network = ToyTextDataModule(n_texts=120), make_network()
    method = METHODS[name](network, Categorical(3))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(method, dm)
    assert method.num_data == 60
    (scores,) = trainer.test(method, dm, verbose=False)
    batches: Any = trainer.predict(method, dm)
    predicted = torch.cat([batch["pred"] for batch in batches])
    right = (predicted.argmax(1) == dm.labels["test"]).float().mean()
    assert scores["test_accuracy"] == pytest.approx(float(right))
    x = {"input_ids": dm.input_ids["test"], "attention_mask": dm.attention_mask["test"]}
    assert_close(method.predict(x).mean, predicted)
    trainer.save_checkpoint(tmp_path / "text.ckpt")
    loaded = type(method).load_from_checkpoint(tmp_path / "text.ckpt", backbone=network, likelihood=Categorical(3))
    assert_close(loaded.predict(x).mean, predicted)
    assert_close(loaded.predict_step(x)["pred"], predicted)
    other = torch.where(x["attention_mask"] == 0, 7, x["input_ids"])
    assert_close(method.predict({**x, "input_ids": other}).mean, predicted)
    longer = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in x.items()}
    if name != "MCDropout":  # whose masks have the shape of the activations
        assert_close(method.predict(longer).mean, predicted, rtol=1e-4, atol=1e-5)
    calibrated = TemperatureScaling(method)
    calibrated.calibrate(dm.calibration_dataloader())
    assert calibrated.is_calibrated


def test_token_labels_with_ignored_positions() -> None:
    """As in token classification: logits [B, L, C], and labels [B, L] that are -100 at padding."""

    class PerToken(TextTransformer):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            hidden = self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)  # type: ignore[operator]
            return {"loss": None, "logits": self.head(hidden)}

    labels = torch.where(MASK == 1, TOKENS % 2, -100)
    row = [{"input_ids": TOKENS[i], "attention_mask": MASK[i], "labels": labels[i]} for i in range(2)]
    method = MeanFieldVI(PerToken(50, 2, width=8), Categorical(2, class_dim=-1, ignore_index=-100))
    fit(method, DataLoader(row, batch_size=2), max_epochs=2)  # type: ignore[arg-type]
    assert method.predict({"input_ids": TOKENS, "attention_mask": MASK}).mean.shape == (2, 2, 3)


def test_texts() -> None:
    dm, twin, other = ToyTextDataModule(), ToyTextDataModule(), ToyTextDataModule(data_seed=1)
    assert isinstance(dm.train_dataloader().sampler, RandomSampler)
    assert sum(len(labels) for labels in dm.labels.values()) == 1600
    for split, tokens in dm.input_ids.items():
        assert torch.equal(tokens, twin.input_ids[split])
        assert not torch.equal(tokens, other.input_ids[split])
        assert torch.equal(tokens != 0, dm.attention_mask[split] == 1)
        assert (tokens[:, 0] == 1).all()
        assert int(tokens.max()) < dm.vocab_size == 50
        topics = (tokens - 26).div(8, rounding_mode="floor")
        is_topic = tokens >= 26
        assert (topics == dm.labels[split][:, None])[is_topic].all()
    words = torch.cat(list(dm.input_ids.values()))[:, 1:]
    assert float((words >= 26).sum() / (words > 0).sum()) == pytest.approx(0.2, abs=0.02)
    gathered = torch.cat([batch["labels"] for batch in dm.test_dataloader()])
    assert torch.equal(gathered, dm.labels["test"])
    with pytest.raises(ValueError, match="n_texts must be an integer >= 40, got 3"):
        ToyTextDataModule(n_texts=3)


def test_padding_has_no_part_in_the_mean() -> None:
    network = make_network(0.0)
    alone = network(TOKENS[:1, :2])
    assert_close(network(TOKENS, MASK)[:1], alone)
    assert not torch.allclose(network(TOKENS, MASK)[1:], network(TOKENS.flip(1), MASK)[1:])
    with pytest.raises(ValueError, match="vocab_size must be positive, got 0"):
        TextTransformer(0, 3)
    with pytest.raises(ValueError, match="width must be even"):
        TextTransformer(9, 3, width=7)
    with pytest.raises(ValueError, match="dropout_p"):
        TextTransformer(9, 3, dropout_p=1.0)
