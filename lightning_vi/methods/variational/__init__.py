"""Methods of variational inference."""
