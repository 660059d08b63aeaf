"""Models of tables, a file each."""
