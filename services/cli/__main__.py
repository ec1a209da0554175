"""`python -m services.cli`: the same as `isthmus`."""

from services.cli import main

main()
