"""Fine-tune a pretrained Mask R-CNN on your own dataset with detectron2.

Importing this package registers the names of the built-in datasets with detectron2. It reads no
annotation file and prints nothing.
"""

import warnings

try:
    import detectron2 as _detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "transfer_maskrcnn is a detectron2 project, and detectron2 cannot be imported "
        f"({error}). Install it in one of two ways:\n"
        "  from source, as detectron2 documents (needs a C++ compiler and an installed torch):\n"
        "    pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git\n"
        "  or the wheel sal-detectron2, which needs no compiler and runs Mask R-CNN on any Python;"
        " in a checkout of this project:\n"
        "    make setup"
    ) from None

with warnings.catch_warnings():
    # Newer torch calls what detectron2 does at import deprecated; no importer can mend that.
    warnings.simplefilter("ignore")
    from transfer_maskrcnn.config import add_transfer_config
    from transfer_maskrcnn.data.builtin import register_builtin_datasets, register_catalog
    from transfer_maskrcnn.data.register import register_dataset
    from transfer_maskrcnn.surgery.hook import WeightSurgeryHook
    from transfer_maskrcnn.version import __version__

__all__ = [
    "WeightSurgeryHook",
    "__version__",
    "add_transfer_config",
    "register_catalog",
    "register_dataset",
]

register_builtin_datasets()
