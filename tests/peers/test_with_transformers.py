"""A network of transformers, made from a configuration, under several methods; skipped where it is not installed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import quiet_trainer
from torch.testing import assert_close

from lightning_vi import Laplace, LastLayerVI, MCDropout, MeanFieldVI
from lightning_vi.datamodules import ToyTextDataModule
from lightning_vi.likelihoods import Categorical

transformers = pytest.importorskip("transformers")

METHODS: dict[str, Callable[..., Any]] = {
    "LastLayerVI": partial(LastLayerVI, num_mc_samples_test=4),
    "MeanFieldVI": partial(MeanFieldVI, num_mc_samples_test=4),
    "Laplace": partial(Laplace, num_mc_samples_test=4),
    "MCDropout": partial(MCDropout, num_mc_samples_test=4),
}


def bert() -> Any:
    """A small BERT with new weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:.*drops units outside of a dropout layer.*")
def test_bert(name: str, tmp_path: Path) -> None:
    dm, network = ToyTextDataModule(n_texts=120), bert()
    x = {"input_ids": dm.input_ids["test"], "attention_mask": dm.attention_mask["test"]}
    method = METHODS[name](network, Categorical(3))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(method, dm)
    trainer.test(method, dm, verbose=False)
    predicted = torch.cat([batch["pred"] for batch in trainer.predict(method, dm)])  # type: ignore[union-attr, index, call-overload]
    assert_close(method.predict(transformers.BatchEncoding(x)).mean, predicted)
    trainer.save_checkpoint(tmp_path / "bert.ckpt")
    loaded = type(method).load_from_checkpoint(tmp_path / "bert.ckpt", backbone=network, likelihood=Categorical(3))
    assert_close(loaded.predict(x).mean, predicted)
    other = torch.where(x["attention_mask"] == 0, 7, x["input_ids"])
    assert_close(method.predict({**x, "input_ids": other}).mean, predicted)
