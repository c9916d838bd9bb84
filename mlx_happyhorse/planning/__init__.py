"""How much memory and time a run takes, before anything is loaded."""
