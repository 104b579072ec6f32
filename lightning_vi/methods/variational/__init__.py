"""Methods of variational inference."""

from lightning_vi.methods.variational.alpha_divergence_vi import AlphaDivergenceVI as AlphaDivergenceVI
from lightning_vi.methods.variational.base import VariationalMethod as VariationalMethod
from lightning_vi.methods.variational.full_rank_vi import FullRankVI as FullRankVI
from lightning_vi.methods.variational.function_space_vi import FunctionSpaceVI as FunctionSpaceVI
from lightning_vi.methods.variational.ivon import IVON as IVON
from lightning_vi.methods.variational.last_layer_vi import LastLayerVI as LastLayerVI
from lightning_vi.methods.variational.latent_variable_vi import LatentVariableVI as LatentVariableVI
from lightning_vi.methods.variational.low_rank_vi import LowRankVI as LowRankVI
from lightning_vi.methods.variational.low_rank_weights_vi import LowRankWeightsVI as LowRankWeightsVI
from lightning_vi.methods.variational.matrix_variate_vi import MatrixVariateVI as MatrixVariateVI
from lightning_vi.methods.variational.mean_field_vi import MeanFieldVI as MeanFieldVI
from lightning_vi.methods.variational.radial_vi import RadialVI as RadialVI
from lightning_vi.methods.variational.rank_one_vi import RankOneVI as RankOneVI
from lightning_vi.methods.variational.vbll import VBLL as VBLL
