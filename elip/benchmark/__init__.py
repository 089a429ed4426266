"""What users run, timed: whole training steps, re-ranking, loading, plain ViTs; each beside others, in turn."""
