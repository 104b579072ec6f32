"""Methods that average the weights along the training trajectory."""

from lightning_vi.methods.averaging.swa import SWA as SWA
from lightning_vi.methods.averaging.swag import SWAG as SWAG
