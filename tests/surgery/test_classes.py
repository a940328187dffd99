import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_maskrcnn.surgery.classes import (
    ClassRow,
    match_classes,
    same_name,
)
from transfer_maskrcnn.surgery.words import How

COCO = ["person", "traffic light", "knife", "bus", "dog"]

# two names, whether they are the same class
SAME = [
    ("Traffic_Light", "traffic light", True),
    ("traffic-lights", "traffic light", True),
    ("PERSONS", "person", True),
    ("buses", "bus", True),
    ("cherry", "cherries", True),
    # an accent as a part of its letter, and as a character of its own
    ("caf\u00e9", "cafe\u0301", True),
    ("\u00c9toiles", "e\u0301toile", True),
    ("caf\u00e9", "cafe", False),
    # plurals that need a dictionary do not fold, nor do words inside words
    ("knives", "knife", False),
    ("car", "carrot", False),
    ("as", "a", True),
    # a row without a class never matches
    ("", "", False),
]


@pytest.mark.parametrize(("a", "b", "expected"), SAME)
def test_same_name(a: str, b: str, expected: bool) -> None:
    assert same_name(a, b) is expected
    assert same_name(b, a) is expected


# target class, class map, new_class_init, source class, how
ROWS = [
    ("dog", [], "default", "dog", How.EQUAL),
    ("Dogs", [], "default", "dog", How.FOLDED),
    ("pedestrian", [["person", "pedestrian"]], "default", "person", How.MAPPED),
    # a map wins over an equal name, and its own names fold too
    ("dog", [["person", "dog"]], "default", "person", How.MAPPED),
    ("pedestrian", [["Person", "Pedestrians"]], "default", "person", How.MAPPED),
    ("cell", [], "default", None, How.NEW),
    ("cell", [], "mean", None, How.MEAN),
    ("puppy", [], "dog", "dog", How.PARENT),
]


@pytest.mark.parametrize(("name", "pairs", "init", "source", "how"), ROWS)
def test_where_rows_come_from(
    name: str, pairs: list[list[str]], init: str, source: str | None, how: str
) -> None:
    rows, problems = match_classes(COCO, [name, "bus"], pairs, init)
    assert problems == ()
    assert (rows[0].target, rows[0].source, rows[0].how) == (name, source, how)
    assert rows[1].how == How.EQUAL


def test_one_source_serves_many_targets() -> None:
    pairs = [["person", "child"], ["person", "adult"]]
    rows, problems = match_classes(COCO, ["child", "adult"], pairs, "default")
    assert problems == ()
    assert [row.source for row in rows] == ["person", "person"]


def test_several_sources_of_one_target_are_averaged() -> None:
    pairs = [["knife", "thing"], ["dog", "thing"], ["knife", "thing"]]
    rows, problems = match_classes(COCO, ["thing"], pairs, "default")
    assert problems == ()
    assert rows == (ClassRow("thing", None, How.MERGED, ("knife", "dog")),)


def test_new_classes_start_as_their_pairs_say() -> None:
    target = ["van", "kite", "other", "thing", "dog"]
    init = [["van", "bus"], ["kite", "mean"], ["thing", "knife"]]
    pairs = [["knife", "thing"], ["dog", "thing"]]  # one parent of a merged class
    rows, problems = match_classes(COCO, target, pairs, init)
    assert problems == ()
    assert rows == (
        ClassRow("van", "bus", How.PARENT),
        ClassRow("kite", None, How.MEAN),
        ClassRow("other", None, How.NEW),
        ClassRow("thing", "knife", How.PARENT),
        ClassRow("dog", "dog", How.EQUAL),
    )


def test_an_ambiguous_name_is_nobodys() -> None:
    rows, _ = match_classes(
        ["traffic light", "Traffic_Light", "bus"], ["TRAFFICLIGHT", "bus"], [], "default"
    )
    assert rows[0].source is None


# class map, new_class_init, code, words of the message
WRONG = [
    ([["persn", "cell"]], "default", "unknown_class", ["'persn'", "Did you mean 'person'?"]),
    ([["person", "nucleus"]], "default", "unknown_class", ["target class 'nucleus'", "'cell'"]),
    ([["person"]], "default", "no_pair", ["not a pair"]),
    (["ab"], "default", "no_pair", ["'ab', not a pair"]),
    ([], "animal", "unknown_class", ["NEW_CLASS_INIT names the source class 'animal'"]),
    # pairs of NEW_CLASS_INIT
    ([], [["cell"]], "no_pair", ["['cell'], not a pair"]),
    ([], [["cel", "dog"]], "unknown_class", ["target class 'cel'", "Did you mean 'cell'?"]),
    ([], [["cell", "dg"]], "unknown_class", ["source class 'dg'", "Did you mean 'dog'?"]),
    ([], [["bus", "dog"]], "not_new", ["'bus', which is not new: the source has 'bus'"]),
    ([], [["cell", "dog"], ["cell", "mean"]], "started_twice", ["starts 'cell' twice"]),
    ([], "default", "no_class_matches", ["no target class ('cell')", "CLASS_MAP"]),
]


@pytest.mark.parametrize(("pairs", "init", "code", "words"), WRONG)
def test_wrong_names(pairs: list, init: str | list[list[str]], code: str, words: list[str]) -> None:
    target = ["cell", "bus"] if init != "default" else ["cell"]
    _, problems = match_classes(COCO, target, pairs, init)
    found = next(problem for problem in problems if problem.code == code)
    assert all(word in str(found) for word in words), str(found)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=8), st.data())
def test_every_target_class_gets_one_row(names: list[str], data: st.DataObject) -> None:
    target = data.draw(st.lists(st.sampled_from([*names, "other"]), unique=True))
    rows, _ = match_classes(names, target, [], "default")
    assert [row.target for row in rows] == target
    assert all(row.source == row.target for row in rows if row.target in names)
