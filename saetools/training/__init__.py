"""One loop, for one model or many, and the recipe on top of it."""
