"""Tables in files: formats, separators, headers, and rows that are read in chunks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_vi.datamodules import NewTableDataModule, TabularDataModule, _chunks, _files, _identity
from lightning_vi.datamodules.open_table import open_table


def table(rows: int = 50, seed: int = 0) -> pd.DataFrame:
    noise = np.random.default_rng(seed)
    frame = pd.DataFrame({"width": noise.normal(size=rows).round(3), "plot": noise.choice(["01", "1", "b"], rows)})
    return frame.assign(weight=noise.normal(size=rows).round(3))


ARGUMENTS: dict[str, Any] = {"target_columns": "weight", "task": "regression", "categorical_columns": ["plot"]}


def data_of(data: Any, **options: Any) -> TabularDataModule:
    return TabularDataModule(data, **ARGUMENTS, **options)


Write = Callable[[pd.DataFrame, Path], Any]
FORMATS: dict[str, Write] = {
    "t.csv": lambda frame, path: frame.to_csv(path, index=False),
    "t.TSV": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "t.tsv.gz": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "t.csv.zip": lambda frame, path: frame.to_csv(path, index=False),
    "t.txt": lambda frame, path: frame.to_csv(path, index=False),
    "t.jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "t.jsonl.gz": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "t.parquet": lambda frame, path: frame.to_parquet(path),
    "t.feather": lambda frame, path: frame.to_feather(path),
    "t.xlsx": lambda frame, path: frame.to_excel(path, index=False),
}
NEEDS = {"t.parquet": "pyarrow", "t.feather": "pyarrow", "t.xlsx": "openpyxl"}


@pytest.fixture
def in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: Any, reading: Any) -> Any:
        return _files.read_chunks(data, reading, rows=7)

    monkeypatch.setattr(_chunks, "read_chunks", read)
    monkeypatch.setattr(_identity, "read_chunks", read)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_rows(name: str, tmp_path: Path, in_small_chunks: None) -> None:
    """In a fit, as a new table in chunks, and as the table of the fit that is recognized."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    expected = data_of(table())
    FORMATS[name](table(), tmp_path / name)
    options = {"read_options": {"dtype": {"plot": str}}} if ".json" in name else {}
    dm = data_of(tmp_path / name, **options)
    assert torch.equal(dm.X_test, expected.X_test)
    assert dm.data_state["tables"] == expected.data_state["tables"]
    new = NewTableDataModule(tmp_path / name, expected.state_dict(), **options)
    assert torch.equal(new.X, expected.transform(table()))
    arguments = {**ARGUMENTS, **options}
    assert type(open_table(dm.state_dict(), tmp_path / name, **arguments)) is TabularDataModule


def test_separators_and_options_travel_with_the_checkpoint(tmp_path: Path) -> None:
    frame = table().astype({"width": object})
    frame.loc[3, "width"] = "n/a?"
    options: dict[str, Any] = {"sep": ";", "read_options": {"decimal": ",", "na_values": ["n/a?"]}}
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";", decimal=",")
    dm = data_of(tmp_path / "t.csv", missing="impute", **options)
    table(5, seed=1).to_csv(tmp_path / "new.csv", index=False, sep=";", decimal=",")
    expected = dm.transform(table(5, seed=1))
    assert torch.equal(dm.transform(tmp_path / "new.csv"), expected)
    table(5, seed=1).to_csv(tmp_path / "other.csv", index=False)
    table(5, seed=1).to_json(tmp_path / "new.jsonl", orient="records", lines=True)
    arguments = {**ARGUMENTS, "missing": "impute", **options}
    assert torch.equal(open_table(dm.state_dict(), tmp_path / "new.csv", **arguments).X, expected)
    other = open_table(dm.state_dict(), tmp_path / "other.csv", **arguments | {"sep": ",", "read_options": None})
    assert torch.equal(other.X, expected)
    new = open_table(dm.state_dict(), table(5, seed=1), **arguments)
    assert torch.equal(new.X, expected)
    plain = data_of(tmp_path / "other.csv", val_fraction=0.2, calib_fraction=0.2)
    plain.load_state_dict(dm.state_dict())
    assert torch.equal(torch.cat([x for x, _ in plain.test_dataloader()]), expected)


@pytest.mark.parametrize("order", ["in order", "backward", "at random", "workers"])
def test_rows_of_chunks_come_in_any_order(order: str, tmp_path: Path, in_small_chunks: None) -> None:
    dm, frame = data_of(table()), table(40, seed=2)
    frame.to_csv(tmp_path / "new.csv", index=False)
    new = dm.new_data(tmp_path / "new.csv", batch_size=9)
    if order in ("in order", "workers"):
        batches = list(new.predict_dataloader() if order == "in order" else DataLoader(new._rows, batch_size=9))
        rows = np.arange(40)
    else:
        rows = np.arange(40)[::-1] if order == "backward" else np.random.default_rng(0).permutation(40)
        batches = [new._rows.__getitems__(part) for part in np.array_split(rows, 5)]
        batches = [(batch.inputs, batch.targets) for batch in batches]
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), dm.transform(frame)[rows.copy()])
    expected = torch.tensor(frame["weight"].to_numpy()[rows], dtype=torch.float32)
    assert torch.equal(torch.cat([y for _, y in batches])[:, 0], expected)


def test_faults_of_all_chunks_are_in_one_message(tmp_path: Path, in_small_chunks: None) -> None:
    frame = table(40, seed=2).astype({"width": object})
    frame.loc[[3, 20], "width"] = ["wide", "w?"]
    frame.loc[33, "weight"] = np.inf
    frame.to_csv(tmp_path / "new.csv", index=False)
    said = r"2 of 40 values in 'width' are no numbers: 'wide' in row 3, 'w\?' in row 20; \(2\) 1 of 40 .* inf in row 33"
    with pytest.raises(ValueError, match=said):
        data_of(table()).new_data(tmp_path / "new.csv")


def test_row_numbers_of_chunks_count_on(tmp_path: Path, in_small_chunks: None) -> None:
    frame = table(40, seed=2)
    frame.loc[[0, 10], "width"] = np.nan
    frame.to_csv(tmp_path / "new.csv", index=False)
    with pytest.warns(UserWarning, match="2 of 40 rows"):
        new = data_of(table(), missing="drop").new_data(tmp_path / "new.csv")
    rows = [row for row in range(40) if row not in (0, 10)]
    assert new.predict_row_ids[1].tolist() == rows
    torch.testing.assert_close(new.X, data_of(table()).transform(frame.iloc[rows]))


BAD: dict[str, tuple[str, str, str]] = {
    "repeated": (
        "t.csv",
        "a,b,a,weight\n1,2,3,4\n",
        r"unique column names, got duplicates of \['a'\]: rename them, or",
    ),
    "separated otherwise": (
        "t.csv",
        "a;b;weight\n1;2;3\n",
        r"no columns \['weight'\].*separated otherwise: pass sep=';'",
    ),
    "row numbers": ("t.csv", ",a,weight\n0,1,2\n", r"without a name, 'Unnamed: 0'.*id_column='Unnamed: 0'"),
    "ragged": ("t.csv", "a,weight\n1,2\n1,2,3\n", "cannot be read: .*Expected 2 fields in line 3, saw 3"),
    "no JSON": ("t.jsonl", "a,weight\n", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_table_are_refused(case: str, tmp_path: Path) -> None:
    name, text, message = BAD[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        TabularDataModule(tmp_path / name, "weight", "regression")


def test_a_file_in_another_encoding_is_explained(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe,weight\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not in UTF-8: pass .*read_options=\{'encoding': 'latin-1'\}"):
        TabularDataModule(tmp_path / "t.csv", "weight", "regression")


def test_options_of_files_are_refused_elsewhere() -> None:
    with pytest.raises(ValueError, match=r"sep is for text files such as \.csv, got sep=';' with a DataFrame"):
        data_of(table(), sep=";")
    with pytest.raises(ValueError, match=r"read_options is for files, got \{'decimal': ','\} with a DataFrame"):
        data_of(table(), read_options={"decimal": ","})
