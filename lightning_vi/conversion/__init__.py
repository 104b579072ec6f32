"""Conversion of deterministic networks to stochastic networks."""

from lightning_vi.conversion.adapters import add_adapters, merge_low_rank_weights
from lightning_vi.conversion.convert import convert
from lightning_vi.conversion.dropout import put_dropout_behind
from lightning_vi.conversion.last_layer import LastLayerCheck, find_last_layer, last_selected, replace_layer
from lightning_vi.conversion.layers import is_frozen, named_layers, reading_parent
from lightning_vi.conversion.low_rank import (
    FactorInit,
    convert_to_low_rank_weights,
    factor_names,
    factorized,
    largest_factor_rate,
    largest_rank,
    low_rank_obstacles,
    much_smaller,
    nothing_smaller,
    num_joint_layers,
    weight_shape,
)
from lightning_vi.conversion.rank_one import convert_to_rank_one
from lightning_vi.conversion.report import ConversionReport, ModuleReport
from lightning_vi.conversion.selection import ModuleSelector, select_layers
from lightning_vi.conversion.state import check_state_dict
from lightning_vi.conversion.widened import FirstLayer, widened

__all__ = [
    "ConversionReport",
    "FactorInit",
    "FirstLayer",
    "LastLayerCheck",
    "ModuleReport",
    "ModuleSelector",
    "add_adapters",
    "check_state_dict",
    "convert",
    "convert_to_low_rank_weights",
    "convert_to_rank_one",
    "factor_names",
    "factorized",
    "find_last_layer",
    "is_frozen",
    "largest_factor_rate",
    "largest_rank",
    "last_selected",
    "low_rank_obstacles",
    "merge_low_rank_weights",
    "much_smaller",
    "named_layers",
    "nothing_smaller",
    "num_joint_layers",
    "put_dropout_behind",
    "reading_parent",
    "replace_layer",
    "select_layers",
    "weight_shape",
    "widened",
]
