"""TabularMLP: embeddings of the last features, in any method."""

import pytest
import torch
from helpers import quiet_trainer

from lightning_vi import LastLayerVI, MCDropout, MeanFieldVI
from lightning_vi.backbones import CategoryEmbeddings, TabularMLP
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.likelihoods import Gaussian


def rows(count: int = 40) -> torch.Tensor:
    codes = torch.stack([torch.arange(count) % 7, torch.arange(count) % 3], dim=1)
    return torch.cat([torch.randn(count, 2), codes.float()], dim=1)


def test_numbers_stay_and_codes_are_embedded() -> None:
    embeddings, x = CategoryEmbeddings([7, 3], [4, 2]), rows()
    out = embeddings(x)
    assert torch.equal(out[:, :2], x[:, :2])
    first, second = (table.weight for table in embeddings.embeddings)
    assert torch.equal(out[:, 2:6], first[x[:, 2].long()])
    assert torch.equal(out[:, 6:], second[x[:, 3].long()])
    assert out.shape[1] == embeddings.num_features(4) == 8
    assert [table.embedding_dim for table in CategoryEmbeddings([1, 4, 10]).embeddings] == [1, 2, 4]


def test_a_linear_first_layer_on_one_hot_levels_is_an_embedding() -> None:
    """The embedding of a level is the column of the weight that belongs to it."""
    embeddings = CategoryEmbeddings([7], 5)
    (table,) = embeddings.embeddings
    codes = torch.arange(7)
    one_hot = torch.nn.functional.one_hot(codes, 7).float()
    torch.testing.assert_close(embeddings(codes.float()[:, None]), one_hot @ table.weight)


@pytest.mark.parametrize("method", [MeanFieldVI, LastLayerVI, MCDropout])
def test_every_kind_of_method_trains_it(method: type) -> None:
    x, network = rows(), TabularMLP(4, [7, 3], [8], 1, dropout_p=0.1)
    fitted = method(network, Gaussian(), num_mc_samples_test=4)
    quiet_trainer(max_epochs=1).fit(fitted, ArrayDataModule((x, x[:, :1]), (x[:5], x[:5, :1])))
    assert fitted.predict(x).mean.shape == (40, 1)
    if method is MeanFieldVI:
        assert "0.embeddings.0" in {row.name for row in fitted.conversion.modules if row.stochastic}


@pytest.mark.parametrize(
    ("cardinalities", "dims"), [([], None), ([3, 0], None), ([3], 0), ([3, 4], [2]), ([3], [2, 2])]
)
def test_impossible_sizes_are_refused(cardinalities: list[int], dims: int | list[int] | None) -> None:
    with pytest.raises(ValueError, match="cardinalities must be one or more positive numbers, and embedding_dims"):
        CategoryEmbeddings(cardinalities, dims)


def test_categories_count_as_inputs() -> None:
    with pytest.raises(ValueError, match="n_inputs must count the 2 categories too, got 1"):
        TabularMLP(1, [3, 4], [8], 1)
