"""Each private name of detectron2 and torch that is needed is there; where not, it says so."""

from __future__ import annotations

import types
from typing import Any

import detectron2
import pytest
from detectron2.engine import SimpleTrainer
from detectron2.modeling.roi_heads import BaseMaskRCNNHead

from transfer_maskrcnn import compat
from transfer_maskrcnn.errors import TransferError


@pytest.mark.parametrize("name", compat.PRIVATE)
def test_each_name_is_there(name: str) -> None:
    assert callable(getattr(compat, name))


def test_methods_that_subclasses_and_distillation_call() -> None:
    assert callable(SimpleTrainer._write_metrics)
    assert callable(BaseMaskRCNNHead.layers)


def test_a_name_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compat.PRIVATE, "gone", ("detectron2.data.build", "_gone"))
    with pytest.raises(TransferError, match=r"has no detectron2\.data\.build\._gone.*install"):
        _ = compat.gone
    with pytest.raises(AttributeError):
        _ = compat.never_there


VERSIONS = [("0.5", True), ("0.6", False), ("0.6+cu118", False), ("0.7.2", False), ("1.0", False)]


@pytest.mark.parametrize(("version", "too_old"), VERSIONS)
def test_a_version_that_is_too_old(
    version: str, too_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectron2, "__version__", version)
    if not too_old:
        compat.check_detectron2()
        return
    with pytest.raises(TransferError, match=r"detectron2 0\.5 is too old: .* needs 0\.6 or newer"):
        compat.check_detectron2()


def test_a_loader_that_was_opened_too_early_begins_anew() -> None:
    """As detectron2 0.6's, where a resumed run would get the batches of its first iterations."""
    old: Any = types.SimpleNamespace(data_loader=[7, 8], _data_loader_iter=iter([1, 2]))
    compat.restart_loader(old)
    assert list(old._data_loader_iter) == [7, 8]
    new: Any = types.SimpleNamespace(data_loader=[7, 8], _data_loader_iter_obj=None)
    compat.restart_loader(new)
    assert not hasattr(new, "_data_loader_iter")
