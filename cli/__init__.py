"""The `roundel` command: one module a verb."""
