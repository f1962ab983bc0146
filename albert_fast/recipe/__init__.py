"""A Recipe says which engine to build; ``export`` builds it, ``compile`` builds it only when it is not there yet."""

from albert_fast.recipe.cache import compile
from albert_fast.recipe.calibrating import calibrate
from albert_fast.recipe.exporting import Progress, export
from albert_fast.recipe.words import Recipe

__all__ = ["Progress", "Recipe", "calibrate", "compile", "export"]
