"""Methods that average the weights which training passes through."""

from lightning_vi.methods.averaging.swa import SWA as SWA
from lightning_vi.methods.averaging.swag import SWAG as SWAG
