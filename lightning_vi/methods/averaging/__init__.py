"""Methods that average the weights which training passes through."""
