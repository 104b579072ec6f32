"""Pure tensor mathematics: divergences, decompositions and scores."""
