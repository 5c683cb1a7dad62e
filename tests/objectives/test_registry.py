import pytest

from kdjax.errors import UserError
from kdjax.objectives import check_of, expand, objective_names, preset_names

CLIP_KD = {
    "clip": {"weight": 1.0, "duplicates": "negative"},
    "crd": {"weight": 1.0, "teacher_scale": "calibrated"},
    "icl": {"weight": 1.0, "scale": "raw", "duplicates": "negative"},
    "fd": {"weight": 3.9, "reduction": "sum"},
}


def test_what_there_is():
    published = {"clip", "siglip", "crd", "fd", "icl", "cross_kd", "gd", "afd", "mfd"}
    published |= {"open_clip_distill", "affinity", "siglip_distill"}
    assert published <= set(objective_names())
    assert {"clip_kd", "clip_kd_legacy", "tiny_clip"} <= set(preset_names())


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_short_for_what_it_expands_to(preset):
    assert expand(expand(preset)) == expand(preset)


def test_clip_kd_has_the_terms_and_weights_of_the_paper():
    assert expand("clip_kd") == CLIP_KD


def test_the_legacy_preset_is_as_released():
    """A loss that weakens with the teacher's width, and each teacher's own scale."""
    fd = {"weight": 2000.0, "reduction": "mean"}
    crd = {"weight": 1.0, "teacher_scale": "own"}
    assert expand("clip_kd_legacy") == {**CLIP_KD, "crd": crd, "fd": fd}


def test_the_two_weights_of_features_agree_at_width_512():
    fd, legacy = (expand(p)["fd"]["weight"] for p in ("clip_kd", "clip_kd_legacy"))
    assert legacy / 512 == pytest.approx(fd, rel=0.01)


def test_what_is_given_stands_and_the_rest_is_filled():
    given = {"fd": {"weight": 0.5, "reduction": "mean"}, "crd": {"teacher_scale": 30.0}}
    assert expand(given) == {
        "fd": {"weight": 0.5, "reduction": "mean"},
        "crd": {"weight": 1.0, "teacher_scale": 30.0},
    }


def test_a_weight_goes_with_the_form_that_it_was_published_for():
    weights = [
        expand({"gd": {"form": f}})["gd"]["weight"] for f in ("unit", "released")
    ]
    assert weights == [1.0, 1e8]


def test_the_order_of_a_spec_is_kept():
    assert list(expand({"icl": {}, "clip": {}})) == ["icl", "clip"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clip_dk", "there is no preset of objectives 'clip_dk'; .* 'clip_kd'"),
        ({"cird": {}}, "there is no objective 'cird'; did you mean 'crd'"),
        ({"Clip": {}}, "there is no objective 'Clip'; did you mean 'clip'"),
        (
            {"fd": {"wieght": 1.0}},
            "no option of objective fd 'wieght'; did you mean 'weight'",
        ),
        ({"fd": {"teacher_scale": 1.0}}, "no option of objective fd 'teacher_scale'"),
        ({"fd": 2.0}, "objective fd has 2.0; give a mapping of options"),
        ({}, r"objectives are \{\}; give a preset"),
        ({"clip": {"weight": -1.0}}, "weight of objective clip is -1.0; .* at least 0"),
        ({"crd": {"teacher_scale": 0.0}}, "teacher_scale of objective crd is 0.0"),
        ({"fd": {"reduction": "max"}}, "is 'max'; give 'sum' or 'mean'"),
        ({"icl": {"scale": 3.0}}, "scale of objective icl is 3.0; give 'raw' or 'exp'"),
        ({"gd": {"form": "exact"}}, "give 'unit' or 'paper' or 'released'"),
        ({"affinity": {"student_scale": "learnt"}}, "give 'own' or a number"),
        (
            {"affinity": {"image_image": True}},
            "image_image of .* is True; give a number",
        ),
        ({"siglip_distill": {"temperature": 0}}, "temperature of .* at least 0.001"),
    ],
)
def test_what_is_wrong_is_refused_with_a_sentence(spec, message):
    with pytest.raises(UserError, match=message):
        expand(spec)


@pytest.mark.parametrize(
    ("spec", "of", "message"),
    [
        (
            {"clip": {}, "dkd": {}},
            "pairs",
            "objective dkd is of classes .* clip, siglip",
        ),
        ("clip_kd", "classes", "objective clip is of pairs .* among bce, hinton, dkd$"),
        ({"hintno": {}}, "classes", "did you mean 'hinton'"),
    ],
)
def test_what_a_run_cannot_compare_is_refused(spec, of, message):
    with pytest.raises(UserError, match=message):
        check_of(spec, of)


def test_what_a_run_can_compare_passes():
    check_of("clip_kd", "pairs")
    check_of({"bce": {}, "hinton": {}, "dkd": {}}, "classes")


def test_whole_numbers_are_numbers_like_any_other():
    expanded = expand({"crd": {"weight": 2, "teacher_scale": 30}})
    assert repr(expanded["crd"]) == "{'weight': 2.0, 'teacher_scale': 30.0}"
