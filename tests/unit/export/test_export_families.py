"""Each family, trained on real German credit, exports and answers as its own library does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.export import ExportError, WoeFeature, WoeScorecard, export_model, inspect, sigmoid
from engine.export.expand import expand
from engine.export.families import open_source
from engine.export.session import GraphSession
from engine.export.source import Source
from engine.export.trees import Forest
from tests.unit.export.export_cases import draft, german, run

X, BAD, NAMES = german()


def forest_of(source: Source) -> Forest:
    """The trees of a boosted model."""
    forest = source.read()
    assert isinstance(forest, Forest)
    return forest


METHODS = ["interventional_shap", "path_dependent_shap"]


def lightgbm_model(**changes: Any) -> Any:
    lightgbm = pytest.importorskip("lightgbm")
    parameters = {"objective": "binary", "max_depth": 4, "num_leaves": 14, "verbose": -1, "num_threads": 1, "seed": 1}
    return lightgbm.train(parameters | changes, lightgbm.Dataset(X, BAD, feature_name=NAMES), 30)


def xgboost_model(**changes: Any) -> Any:
    xgboost = pytest.importorskip("xgboost")
    parameters = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.2, "nthread": 1}
    return xgboost.train(parameters | changes, xgboost.DMatrix(X, BAD), 30)


def catboost_model(**changes: Any) -> Any:
    catboost = pytest.importorskip("catboost")
    parameters: dict[str, Any] = {"iterations": 30, "depth": 5, "thread_count": 1, "random_seed": 1, "verbose": False}
    return catboost.CatBoostClassifier(**parameters | changes, allow_writing_files=False).fit(X, BAD)


def ebm_model() -> Any:
    glassbox = pytest.importorskip("interpret.glassbox")
    kinds = ["continuous"] * len(NAMES)
    ebm = glassbox.ExplainableBoostingClassifier(
        feature_names=NAMES, feature_types=kinds, interactions=3, outer_bags=2, max_rounds=60, n_jobs=1, random_state=1
    )
    with pytest.warns(UserWarning, match="Missing values"):
        return ebm.fit(X, BAD)


def woe_model() -> WoeScorecard:
    features = []
    for i, name in enumerate(NAMES):
        cuts = np.unique(np.nanquantile(X[:, i], [0.25, 0.5, 0.75]))
        bins = np.where(np.isnan(X[:, i]), len(cuts) + 1, np.searchsorted(cuts, X[:, i], side="right"))
        bad, good = (np.bincount(bins[b == BAD], minlength=len(cuts) + 2) + 0.5 for b in (1, 0))
        woe = np.log(bad / bad.sum()) - np.log(good / good.sum())
        features.append(WoeFeature(name, tuple(cuts), tuple(woe[:-1]), float(woe[-1]), 0.4))
    return WoeScorecard(tuple(features), float(np.log(BAD.mean() / (1 - BAD.mean()))))


MAKERS = {
    "lightgbm": lightgbm_model,
    "xgboost": xgboost_model,
    "catboost": catboost_model,
    "ebm": ebm_model,
    "woe_scorecard": woe_model,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_family_exports_and_is_checked_on_all_rows(kind: str, method: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    native = MAKERS[kind]()
    reference = X[BAD == 0]
    manifest = export_model(native, draft(NAMES), reference=reference, verify_rows=X, path=file, method=method)

    assert manifest == inspect(file)
    assert manifest.kind == kind
    additive = kind in ("ebm", "woe_scorecard")
    assert manifest.attribution.method == ("additive" if additive else method)
    assert manifest.attribution.reference.rows == len(reference)
    check = manifest.export_check
    assert check is not None
    assert (check.rows, check.contribution_rows, check.top4_agreement) == (1000, 1000, 1.0)

    # The same again from outside: the file against the library, without the exporter's own comparison.
    source = open_source(native)
    answer = GraphSession(file.read_bytes()).run(X)
    raw = source.raw(X)
    np.testing.assert_allclose(answer.raw, raw, atol=1e-5)
    np.testing.assert_allclose(answer.probability, sigmoid(1.2 * raw - 0.3), atol=1e-5)
    assert manifest.attribution.base_value == pytest.approx(source.raw(reference).mean(), abs=1e-5)
    np.testing.assert_allclose(manifest.attribution.base_value + answer.contributions.sum(axis=1), raw, atol=1e-5)
    if additive or method == "path_dependent_shap":
        wanted = source.contributions(X) - source.contributions(reference).mean(axis=0)
        np.testing.assert_allclose(answer.contributions, wanted, atol=1e-5)


def test_interventional_values_are_those_of_catboost_itself() -> None:
    catboost = pytest.importorskip("catboost")
    model, reference = catboost_model(), X[:50]
    native = model.get_feature_importance(
        catboost.Pool(X[100:160], BAD[100:160]),
        type=catboost.EFstrType.ShapValues,
        reference_data=catboost.Pool(reference, BAD[:50]),
        thread_count=1,
    )
    answer = run(expand(forest_of(open_source(model)), reference, interventional=True), X[100:160])
    np.testing.assert_allclose(answer.contributions, native[:, :-1], atol=1e-5)


@pytest.mark.parametrize("make", [lightgbm_model, xgboost_model, catboost_model])
def test_values_missing_only_in_service_take_the_library_s_way(make: Any) -> None:
    full = X[~np.isnan(X).any(axis=1)]
    gone = np.where(np.random.default_rng(0).random(full.shape) < 0.3, np.float32(np.nan), full)
    library = {"lightgbm_model": "lightgbm", "xgboost_model": "xgboost", "catboost_model": "catboost"}[make.__name__]
    pytest.importorskip(library)
    native = _trained_without_gaps(library, full)
    source = open_source(native)
    np.testing.assert_allclose(forest_of(source).raw(gone), source.raw(gone), atol=2e-6)


def _trained_without_gaps(library: str, full: np.ndarray) -> Any:
    bad = BAD[~np.isnan(X).any(axis=1)]
    if library == "lightgbm":
        import lightgbm

        parameters = {"objective": "binary", "max_depth": 4, "verbose": -1, "num_threads": 1}
        return lightgbm.train(parameters, lightgbm.Dataset(full, bad), 20)
    if library == "xgboost":
        import xgboost

        parameters = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}
        return xgboost.train(parameters, xgboost.DMatrix(full, bad), 20)
    import catboost

    model = catboost.CatBoostClassifier(
        iterations=20, depth=4, thread_count=1, verbose=False, allow_writing_files=False
    )
    return model.fit(full, bad)


@pytest.mark.parametrize("wrapper", ["lightgbm", "xgboost"])
def test_a_wrapper_that_stopped_early_is_read_up_to_its_best(wrapper: str) -> None:
    library = pytest.importorskip(wrapper)
    early = (X[800:], BAD[800:])
    if wrapper == "lightgbm":
        model = library.LGBMClassifier(n_estimators=300, max_depth=4, n_jobs=1, verbose=-1)
        model.fit(X[:800], BAD[:800], eval_set=[early], callbacks=[library.early_stopping(5, verbose=False)])
        margin = model.predict_proba(X)[:, 1]
    else:
        model = library.XGBClassifier(n_estimators=300, max_depth=4, n_jobs=1, early_stopping_rounds=5)
        model.fit(X[:800], BAD[:800], eval_set=[early], verbose=False)
        margin = model.predict_proba(X)[:, 1]
    forest = forest_of(open_source(model))
    assert len(forest.trees) < 300
    np.testing.assert_allclose(np.asarray(sigmoid(forest.raw(X))), margin, atol=1e-6)


def _problems(native: Any, **changes: Any) -> str:
    with pytest.raises(ExportError) as caught:
        export_model(native, draft(NAMES), reference=X, verify_rows=X, path=Path("never.onnx"), **changes)
    assert not Path("never.onnx").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"linear_tree": True}, "leaves are linear"),
        ({"zero_as_missing": True}, "zero means missing"),
        ({"objective": "regression"}, "'regression' does not score log-odds"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}, "random forest averages"),
        ({"max_depth": 9, "num_leaves": 200, "min_data_in_leaf": 3}, "questions; at most 6"),
    ],
)
def test_lightgbm_refusals(changes: dict[str, Any], words: str) -> None:
    assert words in _problems(lightgbm_model(**changes))


@pytest.mark.parametrize("boosting", ["dart", "goss"])
def test_lightgbm_s_other_boosting_keeps_final_leaf_values_in_the_trees(boosting: str) -> None:
    source = open_source(
        lightgbm_model(data_sample_strategy="goss") if boosting == "goss" else lightgbm_model(boosting="dart")
    )
    np.testing.assert_allclose(forest_of(source).raw(X), source.raw(X), atol=1e-9)


def test_lightgbm_multiclass_and_native_categories_are_refused() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(X, BAD + (X[:, 1] > 20), feature_name=NAMES)
    model = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}, data, 3)
    assert "3 classes" in _problems(model)
    place = NAMES.index("purpose")
    data = lightgbm.Dataset(X[:, [place]], BAD, categorical_feature=[0])
    model = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 3)
    with pytest.raises(ExportError, match="native categorical"):
        open_source(model).read()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"booster": "dart"}, "'dart' is not supported"),
        ({"booster": "gblinear", "max_depth": 0}, "'gblinear' is not supported"),
        ({"objective": "reg:squarederror"}, "does not score log-odds"),
        ({"max_depth": 8}, "questions; at most 6"),
    ],
)
def test_xgboost_refusals(changes: dict[str, Any], words: str) -> None:
    assert words in _problems(xgboost_model(**changes))


def test_xgboost_that_reads_another_number_as_missing_is_refused() -> None:
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=2, missing=0.0, n_jobs=1).fit(np.nan_to_num(X), BAD)
    assert "0.0 means missing" in _problems(model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grow_policy": "Depthwise"}, "not symmetric"),
        ({"depth": 10}, "questions; at most 8"),
        ({"loss_function": "MultiClass"}, "several classes"),
    ],
)
def test_catboost_refusals(changes: dict[str, Any], words: str) -> None:
    assert words in _problems(catboost_model(**changes))


def test_catboost_native_categories_are_refused() -> None:
    catboost = pytest.importorskip("catboost")
    table = [[str(int(v)), float(w)] for v, w in zip(X[:, 3], X[:, 1], strict=True)]
    model = catboost.CatBoostClassifier(iterations=5, thread_count=1, verbose=False, allow_writing_files=False)
    model.fit(catboost.Pool(table, BAD, cat_features=[0]))
    with pytest.raises(ExportError, match="native categorical"):
        open_source(model).read()


def test_names_that_differ_from_training_are_refused() -> None:
    model = lightgbm_model()
    swapped = draft([NAMES[1], NAMES[0], *NAMES[2:]])
    with pytest.raises(ExportError, match="trained with other names"):
        export_model(model, swapped, reference=X, verify_rows=X, path=Path("never.onnx"))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ExportError, match="known family"):
        open_source({"a": "dict"})


def test_a_deep_symmetric_tree_is_still_exact() -> None:
    model = catboost_model(depth=8, iterations=4)
    source = open_source(model)
    answer = run(expand(forest_of(source), X, interventional=False), X[:200])
    wanted = source.contributions(X[:200]) - source.contributions(X).mean(axis=0)
    np.testing.assert_allclose(answer.contributions, wanted, atol=1e-5)
