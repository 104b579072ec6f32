"""Toy and real data as LightningDataModules."""
