"""Toy texts: sequences of tokens whose words tell their topic."""

from typing import Any, Unpack

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules._loader import ResumableLoader
from lightning_vi.datamodules._shuffle import EpochShuffle
from lightning_vi.datamodules.base import LoaderOptions, loader_settings

PADDING, START = 0, 1
WORDS_OF_TOPIC, COMMON_WORDS = 8, 24
SHORTEST, LONGEST = 3, 16
SHARE_OF_TOPIC = 0.2
FRACTIONS = {"train": 0.5, "val": 0.1, "calib": 0.15, "test": 0.25}


class ToyTextDataModule(LightningDataModule):
    """Classification of short texts in batches as those of Hugging Face: which topic is a text about?

    A batch is ``{"input_ids": tokens, "attention_mask": mask, "labels": labels}`` with int64 tensors of the shapes
    [B, L], [B, L] and [B], padded to L = 17. A text has the token 1 and 3 to 16 words, each of which is one of its
    topic's 8 words with a probability of 20%, else one of 24 words that all topics have. A text without a word of its
    topic tells nothing. Token 0 is padding. 50% of the texts are for training, 10% for validation, 15% for calibration
    and 25% for testing.

    Args:
        batch_size: Number of texts per batch.
        n_texts: Number of texts, at least 40.
        num_classes: Number of topics C.
        data_seed: Seed of the texts.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        input_ids, attention_mask, labels: The texts by split, dictionaries of tensors.
        vocab_size: Number of tokens.
        num_classes: Number of topics C.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ToyTextDataModule()
        >>> {name: tuple(tensor.shape) for name, tensor in next(iter(dm.test_dataloader())).items()}
        {'input_ids': (32, 17), 'attention_mask': (32, 17), 'labels': (32,)}
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        n_texts: int = 1600,
        num_classes: int = 3,
        data_seed: int = 0,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        self._settings = loader_settings(type(self).__name__, batch_size, loader_options)
        n_texts = check_int("n_texts", n_texts, at_least=40)
        self.num_classes = check_int("num_classes", num_classes, at_least=2)
        random = torch.Generator().manual_seed(check_seed("data_seed", data_seed))
        self.vocab_size = 2 + COMMON_WORDS + num_classes * WORDS_OF_TOPIC
        labels = torch.randint(num_classes, (n_texts,), generator=random)
        tokens, mask = _texts(labels, random)
        sizes = [round(fraction * n_texts) for fraction in FRACTIONS.values()][:-1]
        bounds = [*sizes, n_texts - sum(sizes)]
        self.input_ids, self.attention_mask, self.labels = (
            dict(zip(FRACTIONS, torch.split(tensor, bounds), strict=True)) for tensor in (tokens, mask, labels)
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns shuffled batches of the training texts."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns batches of the validation texts."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns batches of the test texts."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns the same batches as `test_dataloader`."""
        return self._loader("test")

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Returns batches of the calibration texts."""
        return self._loader("calib")

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[Any]:
        texts = _Texts(
            {
                "input_ids": self.input_ids[split],
                "attention_mask": self.attention_mask[split],
                "labels": self.labels[split],
            }
        )
        settings = self._settings
        return (ResumableLoader if shuffle else DataLoader)(
            texts,
            batch_size=settings["batch_size"],
            sampler=EpochShuffle(texts, settings["shuffle_seed"]) if shuffle else None,
            num_workers=settings["num_workers"],
            persistent_workers=settings["num_workers"] > 0,
            pin_memory=settings["pin_memory"],
            generator=torch.Generator().manual_seed(settings["shuffle_seed"]),
        )


class _Texts(Dataset[dict[str, Tensor]]):
    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def _texts(labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens and mask of texts, [N, 1 + LONGEST] each."""
    shape = (len(labels), LONGEST)
    common = 2 + torch.randint(COMMON_WORDS, shape, generator=random)
    of_topic = torch.randint(WORDS_OF_TOPIC, shape, generator=random)
    of_topic += 2 + COMMON_WORDS + WORDS_OF_TOPIC * labels.unsqueeze(1)
    words = torch.where(torch.rand(shape, generator=random) < SHARE_OF_TOPIC, of_topic, common)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (len(labels), 1), generator=random)
    is_word = torch.arange(LONGEST) < lengths
    start = torch.full((len(labels), 1), START)
    tokens = torch.cat([start, torch.where(is_word, words, PADDING)], 1)
    return tokens, torch.cat([torch.ones_like(start), is_word.long()], 1)
