"""Tools of the house: what generates stubs, reference pages and distributions. None of it is part of the engine."""
