"""Tasks that come with Roundel: what is learned, and from which examples."""
