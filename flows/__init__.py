"""The recipes. Each reads top to bottom like the loop that it runs; start with `improve`."""
