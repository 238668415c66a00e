"""Programs of this checkout: none of them is part of the installed package."""
