"""Reading of tables from files, at once or in chunks of rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from lightning_vi.errors import InputTypeError, InputValueError

TableSource = str | Path | pd.DataFrame
CHUNK_ROWS = 65536
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "feather",
    ".xlsx": "excel",
    ".xls": "excel",
    ".ods": "excel",
}
EXTRAS = {".parquet": "parquet", ".pq": "parquet", ".feather": "parquet", ".xlsx": "excel"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")


@dataclass(frozen=True)
class Reading:
    """How the file of a table is read.

    Attributes:
        file_format: Name of the format; None for a DataFrame.
        sep: Separator of the columns of a text file; None for that of the suffix.
        options: Further arguments of the function of pandas that reads the format.
    """

    file_format: str | None = None
    sep: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: TableSource, sep: str | None, options: Mapping[str, Any] | None) -> Self:
        """Returns the given way to read `data`.

        Raises:
            FileNotFoundError: If the file does not exist.
            TypeError: If `data` is neither a path nor a DataFrame.
            ValueError: If the suffix is unknown, or `sep` or `options` is given for a table that has none.
        """
        name = None if isinstance(data, pd.DataFrame) else _format_of(data)
        if sep is not None and name != "csv":
            raise InputValueError(f"sep is for text files such as .csv, got sep={sep!r} with {_described(data)}.")
        if options and name is None:
            raise InputValueError(f"read_options is for files, got {dict(options)} with {_described(data)}.")
        return cls(name, sep, dict(options or {}))

    def separator(self, data: TableSource) -> str | None:
        """Returns the separator of a text file, also where it is that of the suffix; None for other tables."""
        if self.file_format != "csv" or self.sep is not None:
            return self.sep
        return "\t" if ".tsv" in [suffix.lower() for suffix in Path(str(data)).suffixes] else ","

    def state(self) -> dict[str, Any]:
        """Returns the attributes as strings, numbers, lists and dictionaries."""
        return asdict(self)

    def as_text(self, columns: Sequence[Any]) -> "Reading":
        """Returns the way to read a text file that leaves the values of some columns as they are: `01` stays `01`."""
        if self.file_format != "csv" or "dtype" in self.options or not columns:
            return self
        return replace(self, options={**self.options, "dtype": dict.fromkeys(columns, str)})

    def for_other(self, data: TableSource) -> "Reading":
        """Returns how another table is read: in the same way if it has the same format."""
        plain = Reading.of(data, None, None)
        return self if plain.file_format == self.file_format else plain


def _described(data: TableSource) -> str:
    return "a DataFrame" if isinstance(data, pd.DataFrame) else f"data={str(data)!r}"


def _format_of(data: str | Path) -> str:
    if not isinstance(data, str | Path):
        raise InputTypeError(f"data must be the path of a file or a DataFrame, got {type(data).__name__}.")
    path = Path(data).expanduser()
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes = suffixes[:-1]
    name = FORMATS.get(suffixes[-1]) if suffixes else None
    compressed = path.suffix.lower() in COMPRESSED
    if name is None or (compressed and name not in ("csv", "json")):
        raise InputValueError(
            f"data must be a path ending in {', '.join(FORMATS)}, or a text file with "
            f"{', '.join(COMPRESSED)} after it, got {str(data)!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"data={str(data)!r}: file not found ({path.absolute()}).")
    return name


def read_table(data: TableSource, reading: Reading | None = None) -> pd.DataFrame:
    """Returns the table in a file; a DataFrame is returned as it is.

    Args:
        data: The table.
        reading: How it is read; None for the way that its suffix tells.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If the package that reads the format is not installed.
        TypeError: If `data` is neither a path nor a DataFrame.
        ValueError: If the suffix is unknown, the file cannot be read, the table has no rows, or column names are not
            unique.
    """
    reading = Reading.of(data, None, None) if reading is None else reading
    frame = data if isinstance(data, pd.DataFrame) else _read(data, reading)
    check_table(frame)
    return frame


def read_chunks(data: TableSource, reading: Reading, rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
    """Yields a table in chunks of rows, text and Parquet files without more than a chunk of them in memory.

    Args:
        data: The table.
        reading: How it is read.
        rows: Number of rows of a chunk.

    Raises:
        ValueError: See `read_table`.
    """
    chunks = _chunks(data, reading, rows)
    with _explained(data):
        first = next(chunks, None)
    if first is None:
        first = read_table(data, reading)  # explains a table without rows
    check_table(first)
    yield first
    with _explained(data):
        yield from chunks


def _chunks(data: TableSource, reading: Reading, rows: int) -> Iterator[pd.DataFrame]:
    if reading.file_format in ("csv", "json") and not isinstance(data, pd.DataFrame):
        with _read(data, reading, chunksize=rows) as chunks:
            yield from chunks
    elif reading.file_format == "parquet" and not reading.options and not isinstance(data, pd.DataFrame):
        from pyarrow.parquet import ParquetFile

        with ParquetFile(Path(data).expanduser()) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield batch.to_pandas()
    else:
        frame = read_table(data, reading)
        for start in range(0, len(frame), rows):
            yield frame.iloc[start : start + rows]


def count_rows(data: TableSource, reading: Reading) -> int:
    """Returns the number of rows of a table; of a text file by reading one column.

    Raises:
        ValueError: See `read_table`.
    """
    if isinstance(data, pd.DataFrame):
        return len(data)
    if reading.file_format == "csv" and not {"usecols", "index_col", "names"} & reading.options.keys():
        reading = replace(reading, options={**reading.options, "usecols": [0]})
    return sum(len(frame) for frame in read_chunks(data, reading))


def check_table(frame: pd.DataFrame) -> None:
    """Raises a `ValueError` unless a table has rows, and columns with unique names."""
    if len(frame) == 0:
        raise InputValueError(f"data must have at least one row, got none, with columns {list(frame.columns)}.")
    if not frame.columns.is_unique:
        _refuse_duplicates(frame.columns[frame.columns.duplicated()], "rename them")


def _refuse_duplicates(names: Any, remedy: str) -> None:
    repeated = sorted({str(name) for name in names})
    raise InputValueError(f"data must have unique column names, got duplicates of {repeated}: {remedy}.")


def _read(data: str | Path, reading: Reading, **chunks: int) -> Any:
    path = Path(data).expanduser()
    name, options = reading.file_format, dict(reading.options)
    if name == "csv":
        options.setdefault("sep", reading.separator(path))
    if name == "json":
        options.setdefault("lines", True)
    with _explained(data):
        if name in ("csv", "excel") and not {"header", "names"} & options.keys():
            _check_header(path, str(name), options)
        return _reader(str(name))(path, **options, **chunks)


def _reader(name: str) -> Callable[..., Any]:
    reader: Callable[..., Any] = getattr(pd, f"read_{name}")
    return reader


def _check_header(path: Path, name: str, options: Mapping[str, Any]) -> None:
    """Refuses repeated names, which pandas would number: `width`, `width.1`."""
    kept = {key: value for key, value in options.items() if key in ("sep", "sheet_name", "skiprows", "encoding")}
    kept |= {key: options[key] for key in ("comment", "quotechar", "engine", "compression") if key in options}
    header = _reader(name)(path, header=None, nrows=1, dtype=str, **kept)
    if len(header) == 0:
        return
    names = header.iloc[0].dropna()
    if names.duplicated().any():
        remedy = "rename them, or give the names of all columns as read_options={'header': 0, 'names': [...]}"
        _refuse_duplicates(names[names.duplicated()], remedy)


@contextmanager
def _explained(data: TableSource) -> Iterator[None]:
    """Turns the errors of pandas about a file into those of the user's input."""
    shown = f"data={str(data)!r}"
    try:
        yield
    except InputValueError:
        raise
    except pd.errors.EmptyDataError as error:
        raise InputValueError(f"{shown}: expected a header and rows, got an empty file.") from error
    except ImportError as error:
        extra = EXTRAS.get(Path(str(data)).suffix.lower())
        remedy = f"pip install 'lightning-vi[{extra}]'" if extra else "install it"
        raise ImportError(f"Reading {shown} needs a package that is missing: {remedy} ({error}).") from error
    except UnicodeDecodeError as error:
        remedy = "pass its encoding, such as read_options={'encoding': 'latin-1'}"
        raise InputValueError(f"{shown} is not in UTF-8: {remedy} ({error}).") from error
    except (ValueError, TypeError) as error:
        raise InputValueError(f"{shown} cannot be read: {error}") from error
