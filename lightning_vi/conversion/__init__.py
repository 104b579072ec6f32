"""Conversion of deterministic networks to stochastic networks."""

from lightning_vi.conversion.convert import convert
from lightning_vi.conversion.dropout import put_dropout_behind
from lightning_vi.conversion.last_layer import LastLayerCheck, find_last_layer, last_selected, replace_layer
from lightning_vi.conversion.layers import named_layers, reading_parent
from lightning_vi.conversion.rank_one import convert_to_rank_one
from lightning_vi.conversion.report import ConversionReport, ModuleReport
from lightning_vi.conversion.selection import ModuleSelector, select_layers
from lightning_vi.conversion.state import check_state_dict
from lightning_vi.conversion.widened import FirstLayer, widened

__all__ = [
    "ConversionReport",
    "FirstLayer",
    "LastLayerCheck",
    "ModuleReport",
    "ModuleSelector",
    "check_state_dict",
    "convert",
    "convert_to_rank_one",
    "find_last_layer",
    "last_selected",
    "named_layers",
    "put_dropout_behind",
    "reading_parent",
    "replace_layer",
    "select_layers",
    "widened",
]
