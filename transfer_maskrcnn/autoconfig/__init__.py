"""Fits a config to a dataset: measures it, decides, and gives each decision its reason."""

from transfer_maskrcnn.autoconfig.fit import Data, fit_lines
from transfer_maskrcnn.autoconfig.lines import Line, comment, scalar, yaml_text
from transfer_maskrcnn.autoconfig.measures import Measures, measure
from transfer_maskrcnn.autoconfig.settings import settings_of

__all__ = [
    "Data",
    "Line",
    "Measures",
    "comment",
    "fit_lines",
    "measure",
    "scalar",
    "settings_of",
    "yaml_text",
]
