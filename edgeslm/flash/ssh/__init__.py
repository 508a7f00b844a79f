"""Flash a board that runs, over ssh."""
