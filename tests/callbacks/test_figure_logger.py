"""Figures that reach loggers and files, from which data, and what a fit does not notice of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, loader, quiet_trainer, same_state
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_vi import Laplace, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import FigureLogger
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.methods import UQMethod

REGRESSION = {"calibration", "error_uncertainty", "pit", "predicted_observed"}
X = torch.randn(30, 2)


class Board(DummyLogger):
    """A logger with the interface of a TensorBoardLogger."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, list[tuple[Figure, int]]] = {}

    @property
    def experiment(self) -> Any:
        return self

    def add_figure(self, tag: str, figure: Figure, global_step: int, close: bool) -> None:
        assert not close
        self.figures.setdefault(tag, []).append((figure, global_step))


class ImageBoard(DummyLogger):
    """A logger with the interface of a WandbLogger."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    @property
    def experiment(self) -> Any:
        return object()

    def log_image(self, key: str, images: list[Figure], step: int) -> None:
        self.tags += [key] * len(images)


def regressor() -> UQMethod:
    torch.manual_seed(0)
    return MeanFieldVI(MLP(2, [4], 1), Gaussian(), num_mc_samples_test=3)


def batches(count: int = 30) -> Any:
    return loader(X[:count], X[:count].sum(1, keepdim=True), batch_size=8)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.png")}


def test_a_fit_and_a_test_leave_files_beside_the_log(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer = quiet_trainer(callbacks=[FigureLogger()], logger=logger, max_epochs=2)
    method = regressor()
    trainer.fit(method, batches(), batches())
    expected = {f"val_{name}.png" for name in REGRESSION} | {"train_objective.png"}
    assert files(tmp_path) == expected
    assert (Path(logger.log_dir) / "figures" / "val_pit.png").read_bytes().startswith(b"\x89PNG")
    trainer.test(method, batches(), verbose=False)
    assert files(tmp_path) == expected | {f"test_{name}.png" for name in REGRESSION}


def test_figures_reach_loggers_that_take_them_with_the_step(tmp_path: Path) -> None:
    board, images = Board(), ImageBoard()
    trainer = quiet_trainer(
        callbacks=[FigureLogger(every_n_epochs=2)], logger=[board, images], max_epochs=4, default_root_dir=tmp_path
    )
    trainer.fit(regressor(), batches(), batches())
    steps = {tag: [step for _, step in logged] for tag, logged in board.figures.items() if "pit" in tag}
    assert steps == {"val/pit_epoch_0001": [8], "val/pit_epoch_0003": [16], "val/pit": [16]}
    assert set(images.tags) == set(board.figures)
    assert not files(tmp_path)


def test_figures_are_those_of_the_predictions_of_the_first_rows() -> None:
    method = regressor()
    board = Board()
    quiet_trainer(callbacks=[FigureLogger(max_targets=20)], logger=board).test(method, batches(), verbose=False)
    ((figure, _),) = board.figures["test/predicted_observed"]
    drawn = sorted(x for container in figure.axes[0].containers for x in container.lines[0].get_xdata())
    assert drawn == pytest.approx(sorted(X[:20].sum(1).tolist()))
    (counts,) = [c for c in board.figures["test/pit"][0][0].axes[0].containers if c.get_label() == "Targets"]
    assert sum(bar.get_height() for bar in counts) <= 20


def test_a_fit_is_the_same_with_and_without_figures(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [FigureLogger(max_targets=8, every_n_epochs=2)]):
        torch.manual_seed(1)
        method = regressor()
        shuffled = loader(X, X.sum(1, keepdim=True), shuffle=True)
        quiet_trainer(callbacks=callbacks, max_epochs=3, default_root_dir=tmp_path).fit(method, shuffled, shuffled)
        states.append(copy_of_state(method))
    assert same_state(*states)


def test_methods_are_drawn_once_they_have_their_posterior(tmp_path: Path) -> None:
    method = Laplace(MLP(2, [4], 1), Gaussian())
    options = {
        "callbacks": [FigureLogger(max_targets=8, every_n_epochs=1)],
        "logger": False,
        "default_root_dir": tmp_path,
    }
    quiet_trainer(max_epochs=2, **options).fit(method, batches(), batches())
    assert files(tmp_path) == {f"val_{name}{end}.png" for name in REGRESSION for end in ("", "_epoch_0001")}


def test_own_figures_see_inputs_predictions_and_targets(tmp_path: Path) -> None:
    seen: list[tuple[Any, dict[str, Tensor], Tensor]] = []

    def draw(x: Tensor, prediction: dict[str, Tensor], target: Tensor) -> Figure:
        seen.append((x, prediction, target))
        return Figure()

    method = regressor()
    logger = FigureLogger(max_targets=11, figures={"mine": draw})
    quiet_trainer(callbacks=[logger], logger=False, default_root_dir=tmp_path).test(
        method, [batches(), batches(9)], verbose=False
    )
    assert files(tmp_path) == {"test_mine_dataloader_0.png", "test_mine_dataloader_1.png"}
    for (x, prediction, target), count in zip(seen, (11, 9), strict=True):
        torch.testing.assert_close(x, X[:count])
        torch.testing.assert_close(prediction["pred"], method.predict_step(X[:count])["pred"])
        assert len(target) == count


@pytest.mark.parametrize("batch_size", [1, 8])
def test_segmentations_with_ignored_pixels_are_drawn_from_a_bounded_number_of_pixels(
    batch_size: int, tmp_path: Path
) -> None:
    method = MeanFieldVI(nn.Conv2d(1, 3, 1), Categorical(3, ignore_index=255), num_mc_samples_test=2)
    target = torch.randint(0, 3, (6, 4, 4))
    target[:, 0] = 255
    board = Board()
    quiet_trainer(callbacks=[FigureLogger(max_targets=40)], logger=board, default_root_dir=tmp_path).test(
        method, loader(torch.randn(6, 1, 4, 4), target, batch_size=batch_size), verbose=False
    )
    counts = board.figures["test/reliability"][0][0].axes[1].patches
    assert sum(bar.get_height() for bar in counts) == 2 * 12


def test_a_figure_that_fails_is_a_warning(tmp_path: Path) -> None:
    def fail(x: Tensor, prediction: dict[str, Tensor], target: Tensor) -> Figure:
        raise ValueError("no figure today")

    logger = FigureLogger(figures={"mine": fail})
    with pytest.warns(UserWarning, match="FigureLogger could not draw test/mine: no figure today"):
        quiet_trainer(callbacks=[logger], logger=False, default_root_dir=tmp_path).test(
            regressor(), batches(), verbose=False
        )
    with pytest.raises(ValueError, match="max_targets must be an integer of at least 1, got 0"):
        FigureLogger(max_targets=0)
    with pytest.raises(ValueError, match="every_n_epochs must be an integer of at least 1, got 0"):
        FigureLogger(every_n_epochs=0)
