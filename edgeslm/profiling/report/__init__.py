"""Results as a page, as Markdown, or as text with plots for a terminal."""
