"""``flag-st score``: two files, whoever made them."""

import json

import anndata
import numpy as np
import pytest
import scipy.sparse
from toy_scoring import GENES, METRICS, G, Mean, Spread, pair, pick

from flag_st.core.errors import FlagError
from flag_st.core.io import CONTRACT
from flag_st.metrics.mae import Mae
from flag_st.metrics.mse import Mse
from flag_st.scoring.files import score_files
from flag_st.scoring.slides import score_slides


def write(folder, one, sparse=False, order=None, layers=True):
    folder.mkdir(exist_ok=True)
    spots = [f"{i}x{i}" for i in range(len(one.truth))]
    truth = anndata.AnnData(scipy.sparse.csr_matrix(one.truth) if sparse else one.truth.copy())
    truth.obs_names, truth.var_names = spots, list(GENES)
    truth.obsm["spatial"] = one.position
    made = anndata.AnnData(one.point.copy())
    made.obs_names, made.var_names = spots, list(GENES)
    for k, draw in enumerate(one.draws if layers else []):
        made.layers[f"draw_{k}"] = scipy.sparse.csr_matrix(draw) if sparse else draw
    if order is not None:
        made = made[order[0], order[1]].copy()
    truth.write_h5ad(folder / "truth.h5ad")
    made.write_h5ad(folder / "prediction.h5ad")
    return folder / "truth.h5ad", folder / "prediction.h5ad"


@pytest.mark.parametrize("sparse", [False, True])
def test_files_score_as_arrays_do_in_any_order(tmp_path, sparse):
    one = pair(draws=11)
    rng = np.random.default_rng(0)
    paths = write(tmp_path, one, sparse, (rng.permutation(50), rng.permutation(G)))
    found = score_files(*paths, {**METRICS, "mae": Mae(), "spread": Spread(), "mean": Mean()})
    table = score_slides([one], {**METRICS, "spread": Spread(), "mean": Mean()})
    for name in ("pcc", "mse", "gsc", "ssc", "mean"):
        for estimator in ("point", "draw"):
            expected = pick(table, "A1", estimator, name)
            assert found[name][estimator] == pytest.approx(expected, rel=1e-5), name
    assert found["spread"] == {"ensemble": pytest.approx(one.draws.std(0).mean(), rel=1e-5)}
    json.dumps(found)


def test_prediction_without_draws(tmp_path):
    found = score_files(*write(tmp_path, pair(), layers=False), {"mse": Mse(), "s": Spread()})
    assert list(found["mse"]) == ["point"]
    assert found["spread"] == {"ensemble": 0}


def test_files_that_do_not_match_are_refused(tmp_path):
    one = pair()
    paths = write(tmp_path, one, order=(np.arange(48), np.arange(G)))
    with pytest.raises(FlagError, match=r"prediction.h5ad lacks 2 spots of \S*truth.h5ad, .*48x48"):
        score_files(*paths, METRICS)
    more = anndata.read_h5ad(paths[0])[5:]
    more.write_h5ad(paths[0])
    with pytest.raises(FlagError, match=r"truth.h5ad lacks 5 spots of \S*prediction.h5ad"):
        score_files(paths[0], write(tmp_path / "b", one)[1], METRICS)
    paths = write(tmp_path, one, order=(np.arange(50), np.arange(1, G)))
    with pytest.raises(FlagError, match=r"lacks 1 genes .* g0"):
        score_files(*paths, METRICS)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_files_with_repeated_names_are_refused(tmp_path):
    truth, prediction = write(tmp_path, pair())
    table = anndata.read_h5ad(prediction)
    table.obs_names = ["0x0", *table.obs_names[:-1]]
    table.write_h5ad(prediction)
    with pytest.raises(FlagError, match="spots named more than once, such as 0x0"):
        score_files(truth, prediction, METRICS)


def test_files_that_cannot_be_read_are_named(tmp_path):
    truth, prediction = write(tmp_path, pair())
    with pytest.raises(FlagError, match=r"nowhere.h5ad does not exist"):
        score_files(truth, tmp_path / "nowhere.h5ad", METRICS)
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(FlagError, match=r"text.h5ad is not a readable h5ad"):
        score_files(tmp_path / "text.h5ad", prediction, METRICS)
    table = anndata.read_h5ad(truth)
    del table.obsm["spatial"]
    table.write_h5ad(truth)
    with pytest.raises(FlagError, match=r"truth.h5ad has no obsm\['spatial'\]"):
        score_files(truth, prediction, METRICS)


def test_a_prepared_slide_is_a_truth_for_its_predictions(tmp_path):
    """Its counts of more genes, in the unit of the prediction; counts alone are refused."""
    one, rng = pair(), np.random.default_rng(1)
    truth, prediction = write(tmp_path, one)
    made = anndata.read_h5ad(prediction)
    made.uns["unit"] = "log1p"
    made.write_h5ad(prediction)
    counts = rng.poisson(3, (50, G + 2)).astype(np.float32)
    table = anndata.AnnData(counts, obsm={"spatial_um": one.position})
    table.obs_names, table.var_names = made.obs_names, [*made.var_names, "more", "still more"]
    table.uns = {"contract": CONTRACT, "slide": "A1"}
    table.write_h5ad(tmp_path / "spots.h5ad")
    found = score_files(tmp_path / "spots.h5ad", prediction, {"mse": Mse()})
    expected = ((np.log1p(counts[:, :G]) - made.X) ** 2).mean()
    assert found["mse"]["point"] == pytest.approx(expected, rel=1e-5)
    raw = anndata.read_h5ad(truth)
    raw.X = counts[:, :G]
    raw.write_h5ad(truth)
    with pytest.raises(FlagError, match=r"truth.h5ad holds counts, the prediction log1p"):
        score_files(truth, prediction, METRICS)
