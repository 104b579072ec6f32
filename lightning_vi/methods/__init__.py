"""One LightningModule for each method."""
