"""The scores of all runs of an experiment in one table, and their provenance in another."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json, writing
from flag_st.scoring import slides

if TYPE_CHECKING:
    import pandas
    import pyarrow

TEXTS = ["cohort", "split", "panel", "method", "slide", "estimator", "metric", "gene"]
NUMBERS = {"seed": "int64", "value": "double"}
COLUMNS = [*slides.KEYS, *slides.COLUMNS]
#: Files read between two writes, so that memory stays small and row groups become large.
BATCH = 500


def collect_scores(
    paths: Sequence[str | Path], out: str | Path, progress=lambda items, **_: items
) -> None:
    """Write the score tables of all runs, in the order given, to one parquet file.

    Raises:
        FlagError: a file cannot be read, or is no score table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {**dict.fromkeys(TEXTS, pa.dictionary(pa.int32(), pa.string()))}
    kinds |= {name: pa.type_for_alias(kind) for name, kind in NUMBERS.items()}
    schema = pa.schema([(name, kinds[name]) for name in COLUMNS])
    with writing(out) as temporary:
        # Names repeat and values do not, so a dictionary of values would only cost time.
        writer = parquet.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=TEXTS)
        with writer:
            for start in progress(range(0, len(paths), BATCH), desc="scores"):
                tables = [_read(path, schema) for path in paths[start : start + BATCH]]
                writer.write_table(pa.concat_tables(tables).unify_dictionaries())


def _read(path: str | Path, schema: "pyarrow.Schema") -> "pyarrow.Table":
    from pyarrow import ArrowException, parquet

    remedy = f"delete {path} and run the same command again: it is then written again"
    try:
        with parquet.ParquetFile(path, read_dictionary=TEXTS) as file:
            table = file.read(use_threads=False).select(COLUMNS)
        return table.replace_schema_metadata(None).cast(schema)
    except KeyError:
        found = parquet.read_schema(path).names
        missing = ", ".join(name for name in COLUMNS if name not in found)
        raise FlagError(f"{path} has no column {missing}", remedy=remedy) from None
    except (OSError, ArrowException) as error:
        raise FlagError(f"{path} is not a readable score table ({error})", remedy=remedy) from None


def read_scores(path: str | Path, genes: bool = False) -> "pandas.DataFrame":
    """The collected scores: those of single genes if ``genes``, otherwise all others."""
    from pyarrow import parquet

    table = parquet.read_table(path, filters=[("gene", "!=" if genes else "==", "")])
    # Plain strings, because grouping by categories would also list values that do not occur.
    return table.to_pandas().astype(dict.fromkeys(TEXTS, object))


def collect_runs(
    keys: Iterable[Mapping[str, Any]], paths: Sequence[str | Path], out: str | Path
) -> None:
    """Write one row per run from its ``run.json``: what it used, where it ran and what it cost.

    Raises:
        FlagError: a ``run.json`` lacks something, because another version wrote it.
    """
    import pandas as pd

    rows = []
    for key, path in zip(keys, paths, strict=True):
        try:
            rows.append(run_facts(key, read_json(path)))
        except KeyError as error:
            remedy = f"delete {path} and run the same command again: train writes it again"
            raise FlagError(f"{path} lacks {error}", remedy=remedy) from None
    with writing(out) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False)


def run_facts(key: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one run; nested values are JSON."""
    config = facts["config"]
    return {
        **{name: key[name] for name in slides.KEYS},
        "encoder": config.get("encoder") or "",
        # The one that the method aligns to, or the one that it is built on.
        "gene_model": config.get("gene_model") or config.get("backbone") or "",
        "unit": config.get("unit") or "",
        "use": config["use"],
        "settings": json.dumps(config["settings"]),
        "genes": len(config.get("genes") or []),
        "device": facts.get("device") or "",
        "seconds": float(facts.get("seconds") or "nan"),
        "train_spots": float(facts.get("train_spots") or "nan"),
        "peak_memory_mb": float(facts.get("peak_memory_mb") or "nan"),
        "gpu_memory_mb": float(facts.get("gpu_memory_mb") or "nan"),
        "commit": facts.get("commit") or "",
        "dirty": bool(facts.get("dirty")),
        "versions": json.dumps(facts.get("versions") or {}, sort_keys=True),
    }
