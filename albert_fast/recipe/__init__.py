"""A Recipe says which engine to build; ``export`` builds it: from a checkpoint through all floors to an engine file."""

from albert_fast.recipe.exporting import Progress, export
from albert_fast.recipe.words import Recipe

__all__ = ["Progress", "Recipe", "export"]
